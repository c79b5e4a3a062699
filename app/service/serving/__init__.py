"""Which model of a process serves a request."""

from app.service.serving.announcement import Announcement as Announcement
from app.service.serving.directory import ModelDirectory as ModelDirectory
from app.service.serving.directory import Needs as Needs
from app.service.serving.roster import Roster as Roster
