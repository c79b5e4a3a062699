"""Debian's WordPress on MariaDB and PHP's own server, on 127.0.0.1. What is not installed is skipped."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import end, free_port, listens, until

SOURCE = Path("/usr/share/wordpress")
PASSWORD = "secret of a test"

CONFIG = """<?php
define('DB_NAME', 'wordpress');
define('DB_USER', 'root');
define('DB_PASSWORD', '');
define('DB_HOST', 'localhost:{socket}');
define('DB_CHARSET', 'utf8mb4');
define('WP_HOME', '{url}');
define('WP_SITEURL', '{url}');
define('WP_ENVIRONMENT_TYPE', 'local'); // application passwords without https
define('WP_DEBUG', true);
define('WP_DEBUG_LOG', '{folder}/php.log');
define('WP_DEBUG_DISPLAY', false);
define('DISABLE_WP_CRON', true);
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('WP_ACCESSIBLE_HOSTS', '127.0.0.1');
$table_prefix = 'wp_';
if (!defined('ABSPATH')) define('ABSPATH', __DIR__ . '/');
require_once ABSPATH . 'wp-settings.php';
"""

INSTALL = """
define('WP_INSTALLING', true);
require 'wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';
add_filter('pre_wp_mail', '__return_true');
wp_install('Test', 'editor', 'editor@example.org', false, '', $argv[1]);
echo WP_Application_Passwords::create_new_application_password(1, ['name' => 'test'])[0];
"""


class WordPress:
    """A blog at `url`; its user is `editor`, who has an application password."""

    def __init__(self, root: Path, url: str) -> None:
        self.url = url
        self._root = root
        self.application_password = self.php(INSTALL, PASSWORD).splitlines()[-1]

    def php(self, code: str, *arguments: str) -> str:
        """What code prints in the blog's folder."""
        command = ["php", "-d", "error_log=/dev/stderr", "-r", code, "--", *arguments]
        environment = os.environ | {"HTTP_HOST": self.url.removeprefix("http://")}
        ran = subprocess.run(
            command, cwd=self._root, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def plugin(self, name: str, code: str) -> None:
        """Install a plugin that is always on."""
        folder = self._root / "wp-content" / "mu-plugins"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(code)


@contextmanager
def running_wordpress() -> Iterator[WordPress]:
    """A new blog with its own database server."""
    missing = [name for name in ("mariadbd", "mariadb-install-db", "php") if shutil.which(name) is None]
    if missing or not SOURCE.is_dir():
        pytest.skip("WordPress, MariaDB or PHP is not installed (wordpress, mariadb-server, php-cli, php-mysql)")
    with tempfile.TemporaryDirectory(prefix="frontrunner-wp-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _mariadb(folder) as socket:
            root, port = folder / "html", free_port()
            shutil.copytree(SOURCE, root)  # a link would make WordPress look for its settings in /usr/share
            url = f"http://127.0.0.1:{port}"
            (root / "wp-config.php").write_text(CONFIG.format(socket=socket, url=url, folder=folder))
            blog = WordPress(root, url)
            with (folder / "php.out").open("wb") as output:
                command = ["php", "-S", f"127.0.0.1:{port}", "-t", str(root)]
                server = subprocess.Popen(command, stdout=output, stderr=output)
            try:
                until(lambda: listens(port))
                yield blog
            finally:
                end(server)


@contextmanager
def _mariadb(folder: Path) -> Iterator[Path]:
    """A server without a network; its socket. Every user is let in."""
    data, socket = folder / "db", folder / "db.sock"
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        account = pwd.getpwnam("mysql")
        as_user = {"user": account.pw_uid, "group": account.pw_gid}
        folder.chmod(0o755)
        data.mkdir()
        os.chown(data, account.pw_uid, account.pw_gid)
        os.chown(folder, account.pw_uid, account.pw_gid)
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    subprocess.run(install, check=True, capture_output=True, timeout=300, **as_user)
    options = [f"--datadir={data}", f"--socket={socket}", f"--pid-file={folder}/db.pid"]
    server = subprocess.Popen(
        ["mariadbd", "--no-defaults", *options, "--skip-networking", "--skip-grant-tables"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,
    )  # fmt: skip
    try:
        create = ["mariadb", f"--socket={socket}", "-e", "CREATE DATABASE wordpress"]
        until(lambda: subprocess.run(create, capture_output=True, check=False).returncode == 0)
        yield socket
    finally:
        end(server, signal.SIGKILL)
