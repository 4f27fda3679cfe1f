"""Tasks that people bring, on real data: a table from a public pack, a recipe, and one row of results each."""
