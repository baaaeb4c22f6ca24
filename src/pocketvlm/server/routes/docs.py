"""The route GET /docs shows the server's API description and loads nothing from elsewhere."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from pocketvlm.server.routes.shared import Route

router = APIRouter(route_class=Route, include_in_schema=False)

_SCRIPT = """
const add = (parent, tag, text, kind) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
  return made;
};
const kind = (value) => {
  if (!value) return '';
  if (value.$ref) return value.$ref.split('/').pop();
  if (value.anyOf) return value.anyOf.map(kind).filter((name) => name !== 'null').join(' | ');
  if (value.enum) return value.enum.map((item) => JSON.stringify(item)).join(' | ');
  if ('const' in value) return JSON.stringify(value.const);
  if (value.type === 'array') return 'list of ' + (kind(value.items) || 'anything');
  return value.type || '';
};
const fields = (parent, schema) => {
  const table = add(parent, 'table');
  for (const [name, value] of Object.entries(schema.properties || {})) {
    const row = add(table, 'tr');
    add(add(row, 'td'), 'code', name + ((schema.required || []).includes(name) ? ' *' : ''));
    add(row, 'td', kind(value), 'kind');
    add(row, 'td', value.description || '');
  }
};
fetch('openapi.json').then((answer) => answer.json()).then((api) => {
  const body = document.body;
  add(body, 'h1', api.info.title + ' ' + api.info.version);
  add(body, 'p', api.info.description);
  add(body, 'p', 'Fields with * are required. The description itself: openapi.json');
  const used = new Set();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const part = add(body, 'details');
      const head = add(part, 'summary');
      add(head, 'code', method.toUpperCase() + ' ' + path);
      add(head, 'span', ' ' + operation.summary);
      add(part, 'p', operation.description || '');
      for (const content of Object.values((operation.requestBody || {}).content || {})) {
        const name = kind(content.schema);
        used.add(name);
        fields(part, api.components.schemas[name] || content.schema);
      }
    }
  }
  add(body, 'h2', 'Objects inside requests');
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    if (used.has(name) || !schema.properties) continue;
    const part = add(body, 'details');
    add(add(part, 'summary'), 'code', name);
    add(part, 'p', schema.description || '');
    fields(part, schema);
  }
});
"""
_STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
details { border-top: 1px solid #8886; padding: .4rem 0; }
td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
.kind { opacity: .7; }
:root { color-scheme: light dark; }
"""
_PAGE = (
    f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>pocketvlm</title><style>{_STYLE}</style></head>'
    f"<body><script>{_SCRIPT}</script></body></html>"
)
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@router.get("/docs")
async def page() -> Response:
    """The page."""
    return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})
