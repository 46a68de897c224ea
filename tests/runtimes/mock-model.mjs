#!/usr/bin/env node
// A mock model server for the runtime tests: it lets the real Claude Code and Codex programs run
// without a model, and records every request body, which is the ground truth of what reached the
// model. Plain Node 18 or newer, no packages, loopback only.
//
//   node mock-model.mjs --port 0 --log FILE --port-file FILE [--host 127.0.0.1]
//
// Speaks the Anthropic Messages API (POST /v1/messages, streaming or not, /v1/messages/count_tokens)
// and the OpenAI Responses API (POST /v1/responses, /v1/models). The port file appears when the
// server listens. SIGTERM or SIGINT ends it.
//
// What it answers is chosen by directives, one per line, in the newest user text of a main request
// (a request of the conversation itself; requests for titles, summaries and the like are side requests
// and get a harmless answer). Directives of older turns are never obeyed again.
//
//   MOCK:tool <tool-suffix> <json args>   calls the tool whose name ends in <tool-suffix>
//   MOCK:bash <command>                   calls the program's shell tool
//   MOCK:slow <seconds>                   streams text slowly for that long
//   MOCK:status <code>                    answers that HTTP status, also to retries
//   MOCK:limit <seconds>                  answers that the usage limit is reached for that long
//   (none of these)                       answers the text `ok <n>`, n counts main requests
//
// Several tool directives in one text become several calls in one answer. When their results come
// back without new user text, the answer is again `ok <n>`, which ends the turn. A `\@` in a
// directive is read as `@`. A directive that cannot be obeyed is answered with a text that begins
// with `mock:` and says why.
//
// Log, one JSON object per line, written before the answer is sent:
//   ts       time of arrival, ISO 8601 with milliseconds
//   n        number of this request in this run of the server, 1, 2, 3 …
//   method, path
//   api      "anthropic", "openai", "other"
//   main     true: main conversation; false: side request; null: not a model request
//   session  the program's own session id if the request names one, else null
//   compaction  true: a request for the summary that is to replace the conversation
//   new_user the user texts that were new in this request, the ones directives are looked for in
//   answer   what was chosen: "text", "slow:5", "status:429", "limit:60", "tool:<full name>[,…]", "tool:exec><suffix>"
//            (a tool called by a script), "fixed" (what a side request wants), "json" (not a model request), "error:…"
//   body     the request body as parsed JSON (or {"raw": text} if it is not JSON)
// Headers are not logged, because they carry keys.

import http from 'node:http';
import fs from 'node:fs';
import zlib from 'node:zlib';

// --- command line ---------------------------------------------------------------------------------

const options = { port: '0', log: '', 'port-file': '', host: '127.0.0.1' };
for (let i = 2; i < process.argv.length; i += 2) {
  const name = process.argv[i].replace(/^--/, '');
  if (!(name in options) || process.argv[i + 1] === undefined) {
    console.error('usage: node mock-model.mjs --port N --log FILE --port-file FILE [--host 127.0.0.1]');
    process.exit(2);
  }
  options[name] = process.argv[i + 1];
}
if (!['127.0.0.1', '::1', 'localhost'].includes(options.host)) {
  console.error(`mock-model: ${options.host} is not a loopback address`);
  process.exit(2);
}

let requests = 0;
let answers = 0;

function log(entry) {
  if (options.log) fs.appendFileSync(options.log, JSON.stringify(entry) + '\n');
}

// --- directives -----------------------------------------------------------------------------------

// The newest user texts of a request: everything a person (or iapeer) said behind the last thing
// the model said, without what the programs themselves add.
const ADDED_BY_PROGRAM = [
  /^<system-reminder>(?![\s\S]*sent a new message while you were working)/,
  /^<(environment_context|user_instructions|permissions instructions|INSTRUCTIONS|skills_instructions|apps_instructions|plugins_instructions|recommended_plugins|subagent_notification|task-notification|local-command-stdout|local-command-caveat|command-name|bash-input|bash-stdout)\b/,
  /^# AGENTS\.md instructions/,
];
// What stands before one of these is older, though no answer of the model is between: the mark of an
// interrupt, and the summary that a compaction puts in place of the conversation.
const OLDER_BEFORE = /^\s*(\[Request interrupted by user|<turn_aborted>|This session is being continued from a previous conversation|Another language model started to solve this problem)/;
const COMPACTION = /^\s*CRITICAL: Respond with TEXT ONLY\. Do NOT call any tools/;
const SUMMARY = { kind: 'fixed', text: '<analysis>mock</analysis>\n<summary>mock summary</summary>' };

function newestTexts(texts) {
  const cut = texts.map((t) => OLDER_BEFORE.test(t)).lastIndexOf(true);
  return texts.slice(cut + 1).filter((t) => !ADDED_BY_PROGRAM.some((re) => re.test(t.trimStart())));
}

// A turn that failed (an API error) leaves its text in front of the next one, with no model answer
// between: what was the newest text in an earlier request of the session is not new any more. The
// same texts once more are a retry and get the same answer. White space at the ends is no difference:
// a program may add a line feed to a text when another one follows it.
const seen = new Map();
function onlyNew(session, texts) {
  const trimmed = texts.map((t) => t.trim());
  const last = seen.get(session);
  const isPrefix = last && last.trimmed.length > 0 && last.trimmed.length <= trimmed.length
    && last.trimmed.every((t, i) => t === trimmed[i]);
  if (isPrefix && last.trimmed.length === trimmed.length) return last.fresh;
  const fresh = isPrefix ? texts.slice(last.trimmed.length) : texts;
  seen.set(session, { trimmed, fresh });
  return fresh;
}

function directives(texts) {
  const found = [];
  const line = /(?:^|>)[ \t]*MOCK:(tool|bash|slow|status|limit)(?:[ \t]+(.*?))?[ \t]*\r?$/gm;
  for (const text of texts) {
    for (const match of text.matchAll(line)) found.push({ kind: match[1], rest: match[2] ?? '' });
  }
  return found;
}

function parseArgs(text) {
  if (text === '') return {};
  try { return JSON.parse(text); } catch { return JSON.parse(text.replace(/\\@/g, '@')); }
}

// `tools`: [{name, namespace?, custom?, schema}], the ones the request offers.
function findTool(tools, suffix) {
  const full = (t) => (t.namespace ? `${t.namespace}__${t.name}` : t.name);
  return tools.find((t) => t.name === suffix || full(t) === suffix)
    ?? tools.find((t) => full(t).endsWith('__' + suffix))
    ?? tools.find((t) => full(t).endsWith(suffix));
}

// Returns {kind: 'text' | 'slow' | 'status' | 'limit' | 'calls' | 'error', …}.
function plan(found, tools, shellCall, scriptCall = () => undefined) {
  const status = found.find((d) => d.kind === 'status');
  if (status) {
    const code = Number(status.rest);
    return code >= 400 && code <= 599 ? { kind: 'status', code } : { kind: 'error', why: `bad status ${status.rest}` };
  }
  const limit = found.find((d) => d.kind === 'limit');
  if (limit) {
    const seconds = Number(limit.rest);
    return seconds > 0 ? { kind: 'limit', seconds } : { kind: 'error', why: `bad number of seconds ${limit.rest}` };
  }
  const calls = [];
  let seconds = 0;
  for (const d of found) {
    if (d.kind === 'slow') {
      seconds = Number(d.rest);
      if (!(seconds >= 0 && seconds <= 3600)) return { kind: 'error', why: `bad number of seconds ${d.rest}` };
    } else if (d.kind === 'bash') {
      const call = shellCall(tools, d.rest.replace(/\\@/g, '@'));
      if (!call) return { kind: 'error', why: `no shell tool among ${tools.map((t) => t.name).join(' ')}` };
      calls.push(call);
    } else if (d.kind === 'tool') {
      const [, suffix, rest] = /^(\S+)\s*(.*)$/.exec(d.rest) ?? [];
      if (!suffix) return { kind: 'error', why: 'MOCK:tool without a tool' };
      let args;
      try {
        args = parseArgs(rest);
      } catch (error) {
        return { kind: 'error', why: `arguments are not JSON (${error.message}): ${rest}` };
      }
      const tool = findTool(tools, suffix);
      const call = tool ? { tool, args } : scriptCall(tools, suffix, args);
      if (!call) return { kind: 'error', why: `no tool ends in ${suffix}; there are ${tools.map((t) => t.name).join(' ')}` };
      calls.push(call);
    }
  }
  if (calls.length) return { kind: 'calls', calls, seconds };
  return seconds ? { kind: 'slow', seconds } : { kind: 'text' };
}

function describe(p) {
  const name = (c) => (c.suffix ? `${c.tool.name}>${c.suffix}` : c.tool.namespace ? `${c.tool.namespace}__${c.tool.name}` : c.tool.name);
  if (p.kind === 'calls') return `tool:${p.calls.map(name).join(',')}`;
  if (p.kind === 'slow') return `slow:${p.seconds}`;
  if (p.kind === 'status') return `status:${p.code}`;
  if (p.kind === 'limit') return `limit:${p.seconds}`;
  if (p.kind === 'error') return `error:${p.why}`;
  return p.kind;
}

// The smallest value that fits a JSON schema, for side requests that demand structured output.
function sample(schema, name = 'mock') {
  if (!schema || typeof schema !== 'object') return name;
  if ('const' in schema) return schema.const;
  if (Array.isArray(schema.enum)) return schema.enum[0];
  const options = schema.anyOf ?? schema.oneOf;
  if (Array.isArray(options)) return sample(options[0], name);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (type === 'object' || schema.properties) {
    return Object.fromEntries(Object.entries(schema.properties ?? {}).map(([k, v]) => [k, sample(v, `Mock ${k}`)]));
  }
  if (type === 'array') return schema.minItems ? [sample(schema.items, name)] : [];
  if (type === 'boolean') return false;
  if (type === 'number' || type === 'integer') return schema.minimum ?? 0;
  if (type === 'null') return null;
  return name;
}

// --- answering ------------------------------------------------------------------------------------

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const closed = (res) => res.destroyed || res.socket?.destroyed || res.writableEnded;

function sendJson(res, code, value, headers = {}) {
  const text = JSON.stringify(value);
  res.writeHead(code, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text), ...headers });
  res.end(text);
}

function openStream(res) {
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', connection: 'keep-alive' });
  return (type, data) => { if (!closed(res)) res.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...data })}\n\n`); };
}

// The text of an answer in pieces; for a slow one a word every quarter of a second.
async function* pieces(p, n) {
  if (p.seconds) {
    const end = Date.now() + p.seconds * 1000;
    for (let i = 1; Date.now() < end; i += 1) {
      yield `slow ${i}\n`;
      await sleep(Math.min(250, Math.max(1, end - Date.now())));
    }
  }
  if (p.kind === 'error') yield `mock: ${p.why}`;
  else if (p.kind === 'fixed') yield p.text;
  else if (p.kind !== 'calls') yield `ok ${n}`;
}

async function wholeText(p, n) {
  let text = '';
  for await (const piece of pieces(p, n)) text += piece;
  return text;
}

const STATUS_NAMES = {
  400: 'invalid_request_error', 401: 'authentication_error', 403: 'permission_error', 404: 'not_found_error',
  413: 'request_too_large', 429: 'rate_limit_error', 500: 'api_error', 503: 'api_error', 529: 'overloaded_error',
};

function sendStatus(res, code) {
  const type = STATUS_NAMES[code] ?? (code < 500 ? 'invalid_request_error' : 'api_error');
  sendJson(res, code, { type: 'error', error: { type, code: type, message: `mock status ${code}` } });
}

// As the two services say it: by headers, and by the body.
function sendLimit(res, seconds) {
  const resets_at = Math.floor(Date.now() / 1000) + seconds;
  const headers = {
    'anthropic-ratelimit-unified-status': 'rejected', 'anthropic-ratelimit-unified-reset': String(resets_at),
    'anthropic-ratelimit-unified-representative-claim': 'five_hour', 'retry-after': String(seconds), 'x-should-retry': 'false',
  };
  const error = { type: 'usage_limit_reached', plan_type: 'pro', resets_at, resets_in_seconds: seconds, message: 'mock limit' };
  sendJson(res, 429, { type: 'error', error: { ...error, code: error.type } }, headers);
}

// --- Anthropic Messages ---------------------------------------------------------------------------

function anthropicPlan(body, session) {
  const tools = (Array.isArray(body.tools) ? body.tools : []).filter((t) => t?.name).map((t) => ({ name: t.name, schema: t.input_schema }));
  const main = tools.length > 0;
  if (!main) {
    const schema = body.output_config?.format?.schema ?? body.output_format?.schema;
    return { main, fresh: [], plan: schema ? { kind: 'fixed', text: JSON.stringify(sample(schema)) } : { kind: 'text' } };
  }
  const messages = Array.isArray(body.messages) ? body.messages : [];
  const lastAssistant = messages.map((m) => m.role).lastIndexOf('assistant');
  const texts = [];
  for (const message of messages.slice(lastAssistant + 1)) {
    if (message.role !== 'user') continue;
    const blocks = typeof message.content === 'string' ? [{ type: 'text', text: message.content }] : message.content ?? [];
    for (const block of blocks) if (block.type === 'text') texts.push(block.text);
  }
  if (COMPACTION.test(texts.at(-1) ?? '')) {
    return { main: false, compaction: true, fresh: [], plan: SUMMARY };
  }
  const fresh = onlyNew(session, newestTexts(texts));
  const shell = (offered, command) => {
    const tool = offered.find((t) => t.name === 'Bash') ?? findTool(offered, 'bash');
    return tool && { tool, args: { command, description: 'mock' } };
  };
  return { main, fresh, plan: plan(directives(fresh), tools, shell) };
}

async function anthropicAnswer(res, body, p, n) {
  if (p.kind === 'status') return sendStatus(res, p.code);
  if (p.kind === 'limit') return sendLimit(res, p.seconds);
  const id = `msg_mock_${n}`;
  const usage = { input_tokens: 10, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 5 };
  const calls = (p.calls ?? []).map((c, i) => ({ type: 'tool_use', id: `toolu_mock_${n}_${i}`, name: c.tool.name, input: c.args }));
  const stop_reason = calls.length ? 'tool_use' : 'end_turn';
  const envelope = { id, type: 'message', role: 'assistant', model: body.model, stop_sequence: null };
  if (!body.stream) {
    const text = await wholeText(p, n);
    const content = [...(text ? [{ type: 'text', text }] : []), ...calls];
    return sendJson(res, 200, { ...envelope, content, stop_reason, usage });
  }
  const event = openStream(res);
  event('message_start', { message: { ...envelope, content: [], stop_reason: null, usage: { ...usage, output_tokens: 1 } } });
  let index = 0;
  let open = false;
  for await (const text of pieces(p, n)) {
    if (closed(res)) return;
    if (!open) event('content_block_start', { index, content_block: { type: 'text', text: '' } });
    open = true;
    event('content_block_delta', { index, delta: { type: 'text_delta', text } });
  }
  if (open) event('content_block_stop', { index: index++ });
  for (const call of calls) {
    event('content_block_start', { index, content_block: { ...call, input: {} } });
    event('content_block_delta', { index, delta: { type: 'input_json_delta', partial_json: JSON.stringify(call.input) } });
    event('content_block_stop', { index: index++ });
  }
  event('message_delta', { delta: { stop_reason, stop_sequence: null }, usage });
  event('message_stop', {});
  res.end();
}

// --- OpenAI Responses -----------------------------------------------------------------------------

function openaiTools(body) {
  const tools = [];
  // For the models it knows, Codex puts the tools into the conversation instead of `tools`.
  const added = (Array.isArray(body.input) ? body.input : []).filter((i) => i.type === 'additional_tools').flatMap((i) => i.tools ?? []);
  for (const tool of [...(Array.isArray(body.tools) ? body.tools : []), ...added]) {
    if (tool.type === 'namespace') {
      for (const inner of tool.tools ?? []) tools.push({ name: inner.name, namespace: tool.name, custom: inner.type === 'custom', schema: inner.parameters });
    } else if (tool.name) {
      tools.push({ name: tool.name, custom: tool.type === 'custom', schema: tool.parameters });
    }
  }
  return tools;
}

// With those models, everything else is called from JavaScript that the tool `exec` runs.
function openaiScript(tools, suffix, args) {
  const exec = tools.find((t) => t.name === 'exec' && t.custom);
  if (!exec) return undefined;
  const wanted = JSON.stringify(suffix);
  return { tool: exec, suffix, args: `const name = Object.keys(tools).find((k) => k === ${wanted}) ?? Object.keys(tools).find((k) => k.endsWith(${wanted}));
if (!name) { text("mock: no tool ends in " + ${wanted} + "; there are " + Object.keys(tools).join(" ")); exit(); }
text(JSON.stringify(await tools[name](${JSON.stringify(args)})));
` };
}

function openaiShell(tools, command) {
  for (const name of ['exec_command', 'shell_command', 'shell', 'local_shell']) {
    const tool = tools.find((t) => t.name === name);
    if (!tool) continue;
    const properties = tool.schema?.properties ?? {};
    if (properties.cmd) return { tool, args: { cmd: command } };
    if (properties.command?.type === 'array') return { tool, args: { command: ['bash', '-lc', command] } };
    return { tool, args: { command } };
  }
  return openaiScript(tools, 'exec_command', { cmd: command });
}

function openaiPlan(body, session) {
  const tools = openaiTools(body);
  // Codex says in its metadata what a request is for: "turn" is the conversation.
  const kind = /"request_kind":"([^"]*)"/.exec(body.client_metadata?.['x-codex-turn-metadata'] ?? '')?.[1] ?? 'turn';
  const main = tools.length > 0 && kind === 'turn';
  if (kind === 'compaction') return { main, compaction: true, fresh: [], plan: SUMMARY };
  if (!main) {
    const schema = body.text?.format?.schema;
    return { main, fresh: [], plan: schema ? { kind: 'fixed', text: JSON.stringify(sample(schema)) } : { kind: 'text' } };
  }
  const input = typeof body.input === 'string' ? [{ role: 'user', content: body.input }] : body.input ?? [];
  const isUser = (item) => item.role === 'user' && (item.type === undefined || item.type === 'message');
  // The model's own items, and results of its calls, end the search; developer messages do not.
  const own = (item) => item.role === 'assistant' || (item.role === undefined && item.type !== 'message' && !/_output$/.test(item.type ?? ''));
  const lastOwn = input.map(own).lastIndexOf(true);
  const texts = [];
  for (const item of input.slice(lastOwn + 1).filter(isUser)) {
    const blocks = typeof item.content === 'string' ? [{ text: item.content }] : item.content ?? [];
    for (const block of blocks) if (typeof block.text === 'string') texts.push(block.text);
  }
  const fresh = onlyNew(session, newestTexts(texts));
  return { main, fresh, plan: plan(directives(fresh), tools, openaiShell, openaiScript) };
}

async function openaiAnswer(res, body, p, n) {
  if (p.kind === 'status') return sendStatus(res, p.code);
  if (p.kind === 'limit') return sendLimit(res, p.seconds);
  const id = `resp_mock_${n}`;
  const usage = {
    input_tokens: 10, input_tokens_details: { cached_tokens: 0 },
    output_tokens: 5, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 15,
  };
  const calls = (p.calls ?? []).map((c, i) => {
    const call = { id: `fc_mock_${n}_${i}`, call_id: `call_mock_${n}_${i}`, name: c.tool.name, status: 'completed' };
    if (c.tool.namespace) call.namespace = c.tool.namespace;
    return c.tool.custom
      ? { type: 'custom_tool_call', ...call, input: typeof c.args === 'string' ? c.args : c.args.input ?? JSON.stringify(c.args) }
      : { type: 'function_call', ...call, arguments: JSON.stringify(c.args) };
  });
  const response = { id, object: 'response', created_at: Math.floor(Date.now() / 1000), model: body.model, output: [] };
  const message = (text, status) => ({
    type: 'message', id: `item_mock_${n}`, role: 'assistant', status,
    content: text === null ? [] : [{ type: 'output_text', text, annotations: [] }],
  });
  if (!body.stream) {
    const text = await wholeText(p, n);
    const output = [...(text ? [message(text, 'completed')] : []), ...calls];
    return sendJson(res, 200, { ...response, status: 'completed', output, usage });
  }
  let sequence_number = 0;
  const raw = openStream(res);
  const event = (type, data) => raw(type, { sequence_number: sequence_number++, ...data });
  event('response.created', { response: { ...response, status: 'in_progress' } });
  const output = [];
  let text = null;
  for await (const delta of pieces(p, n)) {
    if (closed(res)) return;
    if (text === null) {
      event('response.output_item.added', { output_index: 0, item: message(null, 'in_progress') });
      event('response.content_part.added', { item_id: `item_mock_${n}`, output_index: 0, content_index: 0, part: { type: 'output_text', text: '', annotations: [] } });
    }
    text = (text ?? '') + delta;
    event('response.output_text.delta', { item_id: `item_mock_${n}`, output_index: 0, content_index: 0, delta });
  }
  if (text !== null) {
    event('response.output_text.done', { item_id: `item_mock_${n}`, output_index: 0, content_index: 0, text });
    output.push(message(text, 'completed'));
    event('response.output_item.done', { output_index: 0, item: output[0] });
  }
  for (const call of calls) {
    event('response.output_item.added', { output_index: output.length, item: { ...call, status: 'in_progress' } });
    event('response.output_item.done', { output_index: output.length, item: call });
    output.push(call);
  }
  event('response.completed', { response: { ...response, status: 'completed', output, usage } });
  res.end();
}

// --- the server -----------------------------------------------------------------------------------

function decode(buffer, encoding) {
  switch (encoding) {
    case 'gzip': return zlib.gunzipSync(buffer);
    case 'deflate': return zlib.inflateSync(buffer);
    case 'br': return zlib.brotliDecompressSync(buffer);
    case 'zstd':
      if (!zlib.zstdDecompressSync) throw new Error('this node cannot read zstd bodies');
      return zlib.zstdDecompressSync(buffer);
    default: return buffer;
  }
}

function sessionOf(req, body) {
  const named = req.headers['x-claude-code-session-id'] ?? req.headers['session-id'] ?? req.headers.session_id ?? body?.prompt_cache_key;
  return typeof named === 'string' ? named : null;
}

async function handle(req, res) {
  const chunks = [];
  for await (const chunk of req) chunks.push(chunk);
  const n = ++requests;
  const path = req.url;
  const entry = { ts: new Date().toISOString(), n, method: req.method, path, api: 'other', main: null, session: null, new_user: [], answer: 'json', body: null };

  let body = null;
  if (chunks.length) {
    let text = '';
    try {
      text = decode(Buffer.concat(chunks), req.headers['content-encoding']).toString('utf8');
      body = JSON.parse(text);
    } catch (error) {
      body = { raw: text, error: error.message };
    }
  }
  entry.body = body;
  entry.session = sessionOf(req, body);

  const route = path.split('?')[0].replace(/\/+$/, '');
  const post = req.method === 'POST' && body && !('raw' in body);

  if (post && /\/v1\/messages$/.test(route)) {
    const chosen = anthropicPlan(body, entry.session);
    Object.assign(entry, { api: 'anthropic', main: chosen.main, new_user: chosen.fresh, compaction: chosen.compaction, answer: describe(chosen.plan) });
    log(entry);
    return anthropicAnswer(res, body, chosen.plan, chosen.main ? ++answers : 0);
  }
  if (post && /\/responses$/.test(route)) {
    const chosen = openaiPlan(body, entry.session);
    Object.assign(entry, { api: 'openai', main: chosen.main, new_user: chosen.fresh, compaction: chosen.compaction, answer: describe(chosen.plan) });
    log(entry);
    return openaiAnswer(res, body, chosen.plan, chosen.main ? ++answers : 0);
  }
  if (/\/v1\/messages\/count_tokens$/.test(route)) {
    entry.api = 'anthropic';
    entry.main = false;
    log(entry);
    return sendJson(res, 200, { input_tokens: Math.ceil(JSON.stringify(body ?? '').length / 4) });
  }
  log(entry);
  if (req.method === 'HEAD' || req.method === 'OPTIONS') {
    res.writeHead(200);
    return res.end();
  }
  if (/\/models$/.test(route)) {
    const model = { id: 'mock-model', object: 'model', type: 'model', display_name: 'Mock', created: 0, created_at: '2026-01-01T00:00:00Z', owned_by: 'mock' };
    return sendJson(res, 200, { object: 'list', data: [model], models: [], has_more: false, first_id: model.id, last_id: model.id });
  }
  return sendJson(res, 200, {});
}

const server = http.createServer((req, res) => {
  res.on('error', () => {});
  handle(req, res).catch((error) => {
    console.error(`mock-model: ${req.method} ${req.url}: ${error.stack ?? error}`);
    if (!res.headersSent) sendJson(res, 500, { type: 'error', error: { type: 'api_error', message: `mock failure: ${error.message}` } });
    else res.destroy();
  });
});
server.requestTimeout = 0;
server.on('error', (error) => {
  console.error(`mock-model: ${error.message}`);
  process.exit(1);
});
server.listen(Number(options.port), options.host, () => {
  const { port } = server.address();
  if (options['port-file']) {
    // By rename, so that a reader never sees a half-written file.
    fs.writeFileSync(`${options['port-file']}.new`, `${port}\n`);
    fs.renameSync(`${options['port-file']}.new`, options['port-file']);
  }
  console.log(`mock-model: listening on ${options.host}:${port}`);
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
