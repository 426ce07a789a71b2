"""People rate the systems of an evaluation without knowing which is which, and the judges are held against them."""
