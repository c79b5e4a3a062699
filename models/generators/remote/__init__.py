"""Generators behind other services' APIs. Without torch.

`generator` takes orders and stores images, `calls` makes bounded and retried requests, `limits` bounds their number,
`addresses` reads names. One module per API builds requests and reads answers.
"""
