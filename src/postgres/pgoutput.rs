//! sketch: pure decoder
