"""Structure benchmark: lines, imports and functions of the package, measured from its source."""
