//! The door to caches.
