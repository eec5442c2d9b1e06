"""The files through which stages meet: one module a format, each with a schema, an atomic `write` and a checking `read`."""
