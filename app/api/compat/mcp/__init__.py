"""The Model Context Protocol: tools over HTTP at /mcp, or over stdio.

Tools are clients of the native API, so that keys, quotas, limits and errors are the same. `endpoint` and `in_process`
serve HTTP. Only `server` and `tools` import the `mcp` package, at the first request.
"""
