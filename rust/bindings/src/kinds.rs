//! Enumerations of the engine as classes of Python.
//!
//! Invariant: a variant of the engine that is not given does not compile; `value` is its name, as the engine gives it.

/// Makes a class for Python of all variants that an enumeration of the engine has, and of some that only Python meets.
macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident: $($kind:ident),+ $(; $own:ident = $text:literal)* $(,)?) => {
        $(#[$doc])*
        #[pyclass(frozen, eq, hash, module = "slotferry._core", rename_all = "SCREAMING_SNAKE_CASE")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum $name {
            $($kind,)+
            $($own,)*
        }

        #[pymethods]
        impl $name {
            #[getter]
            #[allow(clippy::trivially_copy_pass_by_ref, reason = "this is how Python calls it")]
            fn value(&self) -> &'static str {
                match self {
                    $(Self::$kind => slotferry_core::$name::$kind.name(),)+
                    $(Self::$own => $text,)*
                }
            }
        }

        impl From<slotferry_core::$name> for $name {
            fn from(kind: slotferry_core::$name) -> Self {
                match kind {
                    $(slotferry_core::$name::$kind => Self::$kind,)+
                }
            }
        }
    };
}

pub(crate) use kinds;
