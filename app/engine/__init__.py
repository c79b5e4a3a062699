"""The engine: batches candidates of many generations into device calls.

Owns scheduling, pruning and ranking with integers and NumPy only; `models` owns tensors.
"""
