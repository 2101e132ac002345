import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const WEB = fileURLToPath(new URL('../../tray_app/web/', import.meta.url));
const OURS = readdirSync(WEB, { recursive: true }).map(String).filter((name) => name.endsWith('.js') && !name.startsWith('vendor'));
const read = (name) => readFileSync(join(WEB, name), 'utf8');

const FORBIDDEN = {
  'text as HTML': /innerHTML|outerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|document\.write|createContextualFragment|DOMParser|srcdoc/,
  'text as code': /\beval\s*\(|new\s+Function|setTimeout\(\s*['"`]|javascript:/,
  'a blocking box': /\b(?:alert|confirm|prompt)\s*\(/,
  'inline style or handler text': /\son\w+=["']|style=["'`]/,
  'something from elsewhere': /(?:import|from|src=|href=)\s*\(?\s*["'`](?:https?:)?\/\//,
};

for (const [what, pattern] of Object.entries(FORBIDDEN)) {
  test(`no script of ours uses ${what}`, () => {
    const found = OURS.flatMap((name) => read(name).split('\n').flatMap((line, i) => (pattern.test(line) ? [`${name}:${i + 1} ${line.trim()}`] : [])));
    assert.deepEqual(found, []);
  });
}

test('every script of ours is type-checked and short', () => {
  assert.ok(OURS.length > 20);
  for (const name of OURS) {
    assert.ok(read(name).startsWith('// @ts-check'), name);
    assert.ok(read(name).split('\n').length < 400, name);
  }
});

test('only bridge.js knows the window', () => {
  assert.deepEqual(OURS.filter((name) => /pywebview(?!ready)/.test(read(name))), ['bridge.js']);
});

test('index.html carries no script or style of its own', () => {
  const page = read('index.html');
  assert.ok(!/<style|style=|\son\w+=|<script(?![^>]*src=)/.test(page));
});

test('the vendored files are the ones the README lists', () => {
  const listed = Object.fromEntries([...read('vendor/README.md').matchAll(/^\| `([\w.-]+)` .*`([0-9a-f]{64})` \|$/gm)].map((m) => [m[1], m[2]]));
  const files = readdirSync(join(WEB, 'vendor')).filter((name) => name.endsWith('.js'));
  assert.deepEqual(Object.keys(listed).sort(), files.sort());
  for (const name of files) assert.equal(createHash('sha256').update(readFileSync(join(WEB, 'vendor', name))).digest('hex'), listed[name], name);
});
