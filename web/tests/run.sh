#!/bin/sh
# Types, tests of the page's pure parts, tests in a browser: `make test-ui`. Screenshots go to build/page.
set -eu
cd "$(dirname "$0")/.."
npx --no-install tsc -p .
rm -rf build
npx --no-install tsc -p tsconfig.tests.json
mkdir -p ../build/page
node --test build/tests/unit/
# One file after the other: each has a server and tabs of its own, and time-outs that a busy machine would miss.
for file in build/tests/ui/*.test.js; do
  node --test "$file"
done
