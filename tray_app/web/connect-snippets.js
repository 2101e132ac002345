// @ts-check
/**
 * What to type into which program, so that it uses this server. Pure: no signals, no DOM.
 *
 * Seen working with the programs themselves: curl, `openai` and `ollama` (Python), Codex 0.169 and
 * Claude Code 2.1 (each of them in a test or by hand against a real engine). The settings of Open
 * WebUI, Continue, Cline, Zed and Copilot follow their documents.
 */

/**
 * @typedef {object} Ask
 * @property {string} base "http://127.0.0.1:7070/v1"
 * @property {string} model a name that the server knows
 * @property {string} follows the id that `default` stands for now, or ''
 * @property {boolean} keyed whether the server asks for a key
 * @property {boolean} embedding whether the model makes embeddings
 * @property {boolean} linux
 *
 * @typedef {'openai' | 'responses' | 'anthropic' | 'ollama' | 'embeddings'} Protocol
 *
 * @typedef {object} Snippet
 * @property {string} text
 * @property {string} where the file or the place it goes to
 * @property {string[]} notes
 *
 * @typedef {object} Program
 * @property {string} id
 * @property {string} name
 * @property {Protocol} protocol what it speaks, and what its test speaks
 * @property {boolean} [embeds] whether it has a use for embeddings
 * @property {(ask: Ask) => Snippet} write
 */

export const KEY = 'YOUR-KEY';
const QUESTION = 'Say hello in one sentence.';
const PASSAGE = 'A llama on a hill.';
const NEEDS_ROOM = 'It sends long prompts: give the model a context length of 32,000 tokens or more in its details.';

/** @param {string} base @returns {string} the address without `/v1` */
export const rootOf = (base) => base.replace(/\/v1\/?$/, '');

/** @param {Ask} ask */
const keyOf = (ask) => (ask.keyed ? KEY : 'none');

/** Text between double quotes in JSON, TOML, YAML, JavaScript and Python. @param {string} text */
const quoted = (text) => JSON.stringify(text);

/** One word of a POSIX shell. @param {string} text */
const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`);

/** @param {Ask} ask */
const question = (ask) => (ask.embedding
  ? { model: ask.model, input: PASSAGE }
  : { model: ask.model, messages: [{ role: 'user', content: QUESTION }] });

/** @param {Ask} ask */
const pathOf = (ask) => (ask.embedding ? 'embeddings' : 'chat/completions');

/** @param {string} where @param {string[]} lines @param {string[]} notes @returns {Snippet} */
const snippet = (where, lines, notes = []) => ({ where, text: lines.join('\n'), notes });

/** @param {Ask} ask */
const curl = (ask) => snippet('A terminal', [
  `curl ${word(`${ask.base}/${pathOf(ask)}`)} \\`,
  ...(ask.keyed ? [`  -H "Authorization: Bearer ${KEY}" \\`] : []),
  '  -H "Content-Type: application/json" \\',
  `  -d ${word(JSON.stringify(question(ask)))}`,
]);

/** @param {Ask} ask */
const python = (ask) => snippet('Python, after “pip install openai”', [
  'from openai import OpenAI',
  '',
  `client = OpenAI(base_url=${quoted(ask.base)}, api_key=${quoted(keyOf(ask))})`,
  ...(ask.embedding
    ? [`answer = client.embeddings.create(model=${quoted(ask.model)}, input=${quoted(PASSAGE)})`, 'print(len(answer.data[0].embedding))']
    : ['answer = client.chat.completions.create(', `    model=${quoted(ask.model)},`,
      `    messages=[{"role": "user", "content": ${quoted(QUESTION)}}],`, ')', 'print(answer.choices[0].message.content)']),
]);

/** @param {Ask} ask */
const javascript = (ask) => snippet('A module, in Node.js 18 or later or in a page', [
  `const response = await fetch(${quoted(`${ask.base}/${pathOf(ask)}`)}, {`,
  "  method: 'POST',",
  `  headers: { 'Content-Type': 'application/json'${ask.keyed ? `, Authorization: 'Bearer ${KEY}'` : ''} },`,
  `  body: JSON.stringify(${JSON.stringify(question(ask))}),`,
  '});',
  'const answer = await response.json();',
  `console.log(answer.${ask.embedding ? 'data[0].embedding.length' : 'choices[0].message.content'});`,
], ['A page from elsewhere than this computer needs its origin in the setting server.cors_origins.']);

/** @param {Ask} ask */
const ollama = (ask) => snippet('Python, after `pip install ollama`; other programs take the address alone', [
  'from ollama import Client',
  '',
  `client = Client(${quoted(rootOf(ask.base))}${ask.keyed ? `, headers={"Authorization": "Bearer ${KEY}"}` : ''})`,
  ...(ask.embedding
    ? [`answer = client.embed(${quoted(ask.model)}, ${quoted(PASSAGE)})`, 'print(len(answer.embeddings[0]))']
    : [`answer = client.chat(${quoted(ask.model)}, [{"role": "user", "content": ${quoted(QUESTION)}}])`, 'print(answer.message.content)']),
], ['Programs that know Ollama only: set OLLAMA_HOST, or their address of Ollama, to the address in it.']);

/** @param {Ask} ask */
function openWebui(ask) {
  // A container on Linux reaches this computer's own address only from inside its network.
  const inside = ask.linux ? ask.base : ask.base.replace(/\/\/(127\.0\.0\.1|localhost|\[::1\])/, '//host.docker.internal');
  return snippet('A terminal', [
    'docker run -d --name open-webui \\',
    ...(ask.linux ? ['  --network host -e PORT=3000 \\'] : ['  -p 3000:8080 \\']),
    '  -v open-webui:/app/backend/data \\',
    `  -e OPENAI_API_BASE_URL=${word(inside)} -e OPENAI_API_KEY=${keyOf(ask)} \\`,
    '  ghcr.io/open-webui/open-webui:main',
  ], ['Then open http://localhost:3000. Where it runs already: Settings → Connections → OpenAI API, with this address and key.']);
}

/** @param {Ask} ask */
const continueDev = (ask) => snippet('~/.continue/config.yaml', [
  'name: Llama Wrangler',
  'version: 1.0.0',
  'schema: v1',
  'models:',
  `  - name: ${quoted(`${ask.model} (Llama Wrangler)`)}`,
  '    provider: openai',
  `    model: ${quoted(ask.model)}`,
  `    apiBase: ${quoted(ask.base)}`,
  `    apiKey: ${quoted(keyOf(ask))}`,
  '    roles:',
  ...(ask.embedding ? ['      - embed'] : ['      - chat', '      - edit', '      - apply']),
]);

/** @param {Ask} ask */
const cline = (ask) => snippet('Cline’s settings, “API Provider”', [
  'API Provider: OpenAI Compatible',
  `Base URL: ${ask.base}`,
  `OpenAI Compatible API Key: ${keyOf(ask)}`,
  `Model ID: ${ask.model}`,
], [NEEDS_ROOM]);

/** @param {Ask} ask */
const zed = (ask) => snippet('Zed’s settings.json (“zed: open settings”)', [
  JSON.stringify({
    language_models: {
      openai_compatible: {
        'Llama Wrangler': {
          api_url: ask.base,
          available_models: [{
            name: ask.model, display_name: `${ask.model} (local)`, max_tokens: 32768,
            capabilities: { tools: true, images: false, parallel_tool_calls: false, prompt_cache_key: false },
          }],
        },
      },
    },
  }, null, 2),
], [`Zed asks for a key, or takes it from the variable LLAMA_WRANGLER_API_KEY: ${ask.keyed ? 'one of your keys' : 'any word will do'}.`]);

/** @param {Ask} ask */
const copilot = (ask) => snippet('VS Code’s settings.json; then “Manage Models” in the chat’s list of models, Ollama', [
  JSON.stringify({ 'github.copilot.chat.byok.ollamaEndpoint': rootOf(ask.base) }, null, 2),
], ask.keyed ? ['It sends no key: let programs on this computer in without one, on the Server page.'] : []);

/** @param {Ask} ask */
const codex = (ask) => snippet('~/.codex/config.toml', [
  `model = ${quoted(ask.model)}`,
  'model_provider = "llama-wrangler"',
  '',
  '[model_providers.llama-wrangler]',
  'name = "Llama Wrangler"',
  `base_url = ${quoted(ask.base)}`,
  'wire_api = "responses"',
  ...(ask.keyed ? ['env_key = "LLAMA_WRANGLER_API_KEY"'] : []),
], [...(ask.keyed ? ['Set the variable LLAMA_WRANGLER_API_KEY to one of your keys.'] : []), NEEDS_ROOM]);

/** @param {Ask} ask */
function claude(ask) {
  // Its own word `default` would ask for a model of Anthropic's.
  const model = ask.model === 'default' ? ask.follows || 'MODEL' : ask.model;
  return snippet('A terminal', [
    `export ANTHROPIC_BASE_URL=${word(rootOf(ask.base))}`,
    `export ANTHROPIC_AUTH_TOKEN=${keyOf(ask)}`,
    `export ANTHROPIC_DEFAULT_HAIKU_MODEL=${word(model)}`,
    `claude --model ${word(model)}`,
  ], [NEEDS_ROOM, ...(ask.model === 'default' ? ['Claude Code has a “default” of its own, so the model is named; an alias can stand for it (Settings).'] : [])]);
}

/** @type {readonly Program[]} */
export const PROGRAMS = [
  { id: 'curl', name: 'curl', protocol: 'openai', embeds: true, write: curl },
  { id: 'python', name: 'Python', protocol: 'openai', embeds: true, write: python },
  { id: 'javascript', name: 'JavaScript', protocol: 'openai', embeds: true, write: javascript },
  { id: 'ollama', name: 'Ollama programs', protocol: 'ollama', embeds: true, write: ollama },
  { id: 'open-webui', name: 'Open WebUI', protocol: 'openai', write: openWebui },
  { id: 'continue', name: 'Continue', protocol: 'openai', embeds: true, write: continueDev },
  { id: 'cline', name: 'Cline', protocol: 'openai', write: cline },
  { id: 'zed', name: 'Zed', protocol: 'openai', write: zed },
  { id: 'copilot', name: 'Copilot in VS Code', protocol: 'ollama', write: copilot },
  { id: 'codex', name: 'Codex', protocol: 'responses', write: codex },
  { id: 'claude', name: 'Claude Code', protocol: 'anthropic', write: claude },
];

/** @param {string} id */
export const programOf = (id) => PROGRAMS.find((each) => each.id === id) ?? PROGRAMS[0];
