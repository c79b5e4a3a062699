"""The texts of a generation as the models read them."""
