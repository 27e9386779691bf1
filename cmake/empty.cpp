// A library has no sources of its own yet.
