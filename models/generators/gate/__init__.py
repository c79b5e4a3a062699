"""Any text-to-image pipeline of diffusers behind the generator protocol.

Importing this package loads no torch.
"""
