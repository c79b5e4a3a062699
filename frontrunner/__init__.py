"""Client of a Frontrunner service; depends on httpx alone."""

from frontrunner import types as types
from frontrunner.client import AsyncClient as AsyncClient
from frontrunner.client import Client as Client
from frontrunner.errors import ApiError as ApiError
from frontrunner.errors import ConnectionFailed as ConnectionFailed
from frontrunner.errors import FrontrunnerError as FrontrunnerError
from frontrunner.errors import GenerationFailed as GenerationFailed
from frontrunner.errors import InvalidRequest as InvalidRequest
from frontrunner.errors import InvalidSignature as InvalidSignature
from frontrunner.errors import NotFound as NotFound
from frontrunner.errors import PermissionDenied as PermissionDenied
from frontrunner.errors import QuotaExceeded as QuotaExceeded
from frontrunner.errors import ServerError as ServerError
from frontrunner.errors import Unauthorized as Unauthorized
from frontrunner.errors import Unavailable as Unavailable
from frontrunner.events import Event as Event
from frontrunner.images import data_uri as data_uri
from frontrunner.webhooks import verify_webhook as verify_webhook
