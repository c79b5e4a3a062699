"""Rows of many generations, one device call at a time. Integers and NumPy only; tensors live in `models`."""
