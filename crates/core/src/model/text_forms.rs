//! The text forms of closed sets, as databases, rules files and JSON hold them.
//! strum derives the forms; the macro names the three functions that callers use.

/// Implements `ALL`, `as_str` and `parse` for a fieldless enum with strum's derives.
macro_rules! text_forms {
    ($name:ident) => {
        impl $name {
            /// Every variant, in the order of declaration.
            pub const ALL: [Self; <Self as strum::VariantArray>::VARIANTS.len()] =
                *<Self as strum::VariantArray>::VARIANTS
                    .first_chunk()
                    .expect("the array has the slice's length");

            /// The text form, as stored and shown.
            pub fn as_str(self) -> &'static str {
                self.into()
            }

            /// Reads what `as_str` writes; `None` for anything else.
            pub fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    };
}

pub(crate) use text_forms;
