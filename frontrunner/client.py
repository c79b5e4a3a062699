"""`Client` and `AsyncClient`: the same methods, for threads and for coroutines."""

from frontrunner.aio import AsyncClient as AsyncClient
from frontrunner.sync import Client as Client
