"""The API of AUTOMATIC1111's web UI under /sdapi/v1, over the same generations.

A web UI holds one model and one global state. Here requests run beside each other, so options are read-only, and
progress and interruption concern the requests of one key.
"""
