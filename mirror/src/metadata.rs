//! Labels, annotations and selectors on their way down, by one function, so that what selected what still selects it.
