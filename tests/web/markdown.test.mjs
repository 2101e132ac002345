import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inline, parse } from '../../tray_app/web/markdown.js';
import { ANSWER } from './fixture_data.mjs';

const text = (t) => ({ type: 'text', text: t });
const types = (source) => parse(source).map((block) => block.type);
/** All text of a tree, in order. */
const flat = (node) => (Array.isArray(node) ? node.map(flat).join('')
  : node.text ?? flat(node.children ?? node.items ?? [node.head ?? [], node.rows ?? []]));

test('every kind of block of a usual answer is found', () => {
  assert.deepEqual(types(ANSWER), ['heading', 'paragraph', 'list', 'code', 'table', 'quote', 'paragraph']);
  const list = parse(ANSWER)[2];
  assert.equal(list.items.length, 3);
  assert.equal(list.items[1][1].type, 'list');
});

test('spans nest and close', () => {
  assert.deepEqual(inline('a **b *c* d** e'), [text('a '), { type: 'strong', children: [text('b '), { type: 'em', children: [text('c')] }, text(' d')] }, text(' e')]);
  assert.deepEqual(inline('**a *b***'), [{ type: 'strong', children: [text('a '), { type: 'em', children: [text('b')] }] }]);
  assert.deepEqual(inline('`` a`b ``'), [{ type: 'code', text: 'a`b' }]);
});

test('what opens no span stays text', () => {
  for (const plain of ['snake_case_name', '2 * 3 * 4', '**open', '`open', '[a](', 'a ** b', '*', '\\', 'http', 'mailto:x@y']) {
    assert.equal(flat(inline(plain)), plain);
    assert.ok(inline(plain).every((node) => node.type === 'text'), plain);
  }
  assert.deepEqual(inline('\\*a\\*'), [text('*a*')]);
});

test('HTML stays text', () => {
  const hostile = '<img src=x onerror=alert(1)><script>alert(2)</script>';
  assert.deepEqual(parse(hostile), [{ type: 'paragraph', children: [text(hostile)] }]);
});

test('a link keeps its address as data, whatever its scheme', () => {
  assert.deepEqual(inline('[x](javascript:alert(1))')[0], { type: 'link', children: [text('x')], url: 'javascript:alert(1)' });
  assert.equal(inline('see https://example.org/a_b_c.')[1].url, 'https://example.org/a_b_c');
});

test('an open fence is code that is still coming', () => {
  assert.deepEqual(parse('```js\nlet a;\n'), [{ type: 'code', language: 'js', text: 'let a;\n', open: true }]);
  assert.equal(parse('```\na\n```\nb')[0].open, false);
  assert.equal(parse('````\n```\n````')[0].text, '```');
});

test('an ordered list keeps its first number', () => {
  const [list] = parse('7. a\n8. b');
  assert.deepEqual([list.ordered, list.start, list.items.length], [true, 7, 2]);
});

test('no text is lost while an answer streams in', () => {
  for (let end = 0; end <= ANSWER.length; end += 3) {
    const blocks = parse(ANSWER.slice(0, end));
    if (end > 10) assert.ok(flat(blocks).includes('Three'));
  }
});

const HOSTILE = {
  stars: '*'.repeat(100_000),
  'stars and letters': '*a **b '.repeat(20_000),
  underscores: '_a'.repeat(50_000),
  backticks: Array.from({ length: 400 }, (_, i) => '`'.repeat(i + 1)).join(' '),
  brackets: '['.repeat(50_000) + ']('.repeat(50_000),
  quotes: '> '.repeat(20_000),
  'nested lists': Array.from({ length: 2000 }, (_, i) => `${' '.repeat(i * 2)}- a`).join('\n'),
  rules: '- '.repeat(50_000),
  pipes: `${'|'.repeat(50_000)}\n${'|-'.repeat(50_000)}`,
  addresses: 'https://'.repeat(20_000),
  fences: '```\n'.repeat(20_000),
  'one long line': 'a '.repeat(200_000),
};

for (const [name, source] of Object.entries(HOSTILE)) {
  test(`hostile text is read in linear time: ${name}`, () => {
    const before = performance.now();
    parse(source);
    assert.ok(performance.now() - before < 1500, `${Math.round(performance.now() - before)} ms`);
  });
}
