//! The locks and counters of the modules whose threads meet: single flight, L1, in-process cache. In the unit tests each use
//! of one is a point at which `interleavings` may let another thread run.

pub(super) use std::sync::atomic::Ordering;

#[cfg(not(test))]
pub(super) use parking_lot::{Mutex, RwLock};
#[cfg(not(test))]
pub(super) use std::sync::atomic::{AtomicI64, AtomicU64};

#[cfg(test)]
pub(super) use switched::{AtomicI64, AtomicU64, Mutex, RwLock, interleaved};

#[cfg(test)]
mod switched {
    use std::cell::Cell;
    use std::sync::atomic::Ordering;

    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::{MaxSteps, Runner};

    thread_local! {
        static IS_INTERLEAVED: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `test` in so many orders of its `shuttle` threads: half of them by chance, half with few and rare changes of
    /// priority, which finds faults that need a long delay of one thread.
    pub fn interleaved(orders: usize, test: impl Fn() + Send + Sync + 'static) {
        let mut config = shuttle::Config::new();
        // A reader that looks again and again while another one is delayed proves nothing.
        config.max_steps = MaxSteps::ContinueAfter(2_000);
        let test = std::sync::Arc::new(test);
        // The threads of a test are coroutines of this one.
        IS_INTERLEAVED.set(true);
        let again = std::sync::Arc::clone(&test);
        let by_chance = RandomScheduler::new(orders / 2);
        Runner::new(by_chance, config.clone()).run(move || test());
        let by_priority = PctScheduler::new(4, orders / 2);
        Runner::new(by_priority, config).run(move || again());
        IS_INTERLEAVED.set(false);
    }

    fn switch() {
        if IS_INTERLEAVED.get() {
            // Not `yield_now`, which says that the thread waits for another one.
            shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
        }
    }

    #[derive(Default)]
    pub struct Mutex<T>(parking_lot::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub fn lock(&self) -> parking_lot::MutexGuard<'_, T> {
            switch();
            while IS_INTERLEAVED.get() {
                if let Some(guard) = self.0.try_lock() {
                    return guard;
                }
                shuttle::thread::yield_now();
            }
            self.0.lock()
        }
    }

    pub struct RwLock<T>(parking_lot::RwLock<T>);

    impl<T> RwLock<T> {
        pub fn new(value: T) -> Self {
            Self(parking_lot::RwLock::new(value))
        }

        pub fn try_read(&self) -> Option<parking_lot::RwLockReadGuard<'_, T>> {
            switch();
            self.0.try_read()
        }

        pub fn try_write(&self) -> Option<parking_lot::RwLockWriteGuard<'_, T>> {
            switch();
            self.0.try_write()
        }

        /// No switch: the map calls it while it holds locks of its own. Nobody switches while holding this one.
        pub fn write(&self) -> parking_lot::RwLockWriteGuard<'_, T> {
            self.0.write()
        }
    }

    macro_rules! atomic {
        ($name:ident, $number:ty) => {
            #[derive(Debug, Default)]
            pub struct $name(std::sync::atomic::$name);

            #[allow(dead_code, reason = "one interface for both")]
            impl $name {
                pub fn new(value: $number) -> Self {
                    Self(std::sync::atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $number {
                    switch();
                    self.0.load(order)
                }

                pub fn store(&self, value: $number, order: Ordering) {
                    switch();
                    self.0.store(value, order);
                }

                pub fn swap(&self, value: $number, order: Ordering) -> $number {
                    switch();
                    self.0.swap(value, order)
                }

                pub fn fetch_add(&self, value: $number, order: Ordering) -> $number {
                    switch();
                    self.0.fetch_add(value, order)
                }
            }
        };
    }

    atomic!(AtomicI64, i64);
    atomic!(AtomicU64, u64);
}
