// The driver of a kept node: see _interpreters.py. It runs in the program's own process; nothing that it
// reports is trusted. V8's own REPL mode gives top-level await and lets const and let be declared again.
'use strict';

const fs = require('fs');
const { createRequire, isBuiltin, SourceMap } = require('module');
const inspector = require('inspector');
const path = require('path');
const { Writable } = require('stream');
const { pathToFileURL } = require('url');
const util = require('util');
const vm = require('vm');

const COMMANDS = 60;
const REPORTS = 61;
const VALUE = 1;
const REPR_LIMIT = 64 * 1024;
const POLL_MS = 5;
const OURS = /\((?:node:(?:inspector|vm|internal\/[^)]*)|\/opt\/sandbox\/repl\.js)|at (?:node:(?:inspector|vm|internal\/)|\/opt\/sandbox\/repl\.js)/;

const { O_RDONLY, O_RDWR, O_WRONLY } = fs.constants;
const reallyExit = process.reallyExit.bind(process);
const session = new inspector.Session();
const maps = new Map();
const caught = {};
let caughtId;
let buffered = '';
let count = 0;
let cell = null;
let before = new Map();
let granted = [];

// --- the streams of a cell

function place(fd, target, flags) {
  fs.closeSync(fd);
  if (fs.openSync(target, flags) !== fd) reallyExit(1); // the lowest free one, unless a thread was faster
}

function attach(holder) {
  place(0, `/proc/${holder}/fd/0`, O_RDONLY);
  place(1, `/proc/${holder}/fd/1`, O_WRONLY);
  place(2, `/proc/${holder}/fd/2`, O_WRONLY);
}

function detach() {
  for (const fd of [0, 1, 2]) place(fd, '/dev/null', O_RDWR);
}

function writeAll(fd, data) {
  for (let view = data; view.length;) {
    try {
      view = view.subarray(fs.writeSync(fd, view));
    } catch (error) {
      if (error.code === 'EPIPE') return;
      if (error.code !== 'EAGAIN') throw error;
    }
  }
}

function writer(fd) {
  const stream = new Writable({
    decodeStrings: true,
    write(chunk, _encoding, done) {
      writeAll(fd, chunk);
      done();
    },
  });
  stream.fd = fd;
  stream.end = (chunk, encoding) => (chunk == null ? stream : (stream.write(chunk, encoding), stream));
  stream.destroy = () => stream;
  stream.destroySoon = () => stream;
  return stream;
}

const stdout = writer(1);
const stderr = writer(2);
let stdin = null;
for (const [name, get] of [
  ['stdout', () => stdout],
  ['stderr', () => stderr],
  ['stdin', () => (stdin ||= fs.createReadStream('', { fd: 0, autoClose: false }))],
]) {
  Object.defineProperty(process, name, { get, configurable: true, enumerable: true });
}

// --- what programs expect around them

globalThis.require = createRequire('/workspace/');
globalThis.module = { exports: {} };
globalThis.exports = globalThis.module.exports;
globalThis.__dirname = '/workspace';
Object.defineProperty(globalThis, '__import', {
  value: (name) => {
    if (isBuiltin(name) || /^(?:data|file):/.test(name)) return import(name);
    if (/^\.{0,2}\//.test(name)) return import(pathToFileURL(path.resolve(name)).href);
    return import(pathToFileURL(globalThis.require.resolve(name)).href);
  },
});

class Exit extends Error {}

process.exit = process.reallyExit = (code) => {
  if (code !== undefined) process.exitCode = code;
  throw new Exit(`process.exit(${process.exitCode ?? 0})`);
};

Error.prepareStackTrace = (error, frames) => {
  const shown = frames.map((frame) => `\n    at ${frame}`).filter((frame) => !OURS.test(frame));
  let head;
  try {
    head = Error.prototype.toString.call(error);
  } catch {
    head = 'an error that can not be shown';
  }
  return head + shown.map(original).join('');
};

/** A stack frame with the place in the source that was written, if that was compiled. */
function original(frame) {
  return frame.replace(/((?:main|cell-\d+)\.ts):(\d+):(\d+)/, (all, name, line, column) => {
    const entry = maps.get(name)?.findEntry(line - 1, column - 1);
    return entry?.originalLine === undefined ? all : `${name}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
  });
}

// --- source

/** Static imports and exports, which only modules may hold, as what a REPL can run; lines stay lines. */
function asScript(source) {
  if (!/\b(?:import|export)\b/.test(source)) return source;
  let tree;
  const imports = [];
  try {
    tree = require('acorn').parse(source, {
      ecmaVersion: 'latest',
      sourceType: 'module',
      onToken(token) {
        if (token.type.label === 'import') imports.push(token);
      },
    });
  } catch {
    return source; // V8 says what is wrong with it
  }
  const edits = [];
  for (const node of tree.body) {
    if (node.type === 'ImportDeclaration') edits.push([node.start, node.end, imported(node)]);
    else if (node.type === 'ExportNamedDeclaration' && node.declaration) edits.push([node.start, node.declaration.start, '']);
    else if (node.type === 'ExportNamedDeclaration' && !node.source) edits.push([node.start, node.end, '']);
    else if (node.type === 'ExportDefaultDeclaration') edits.push([node.start, node.declaration.start, '']);
  }
  for (const token of imports) {
    if (/^\s*\(/.test(source.slice(token.end))) edits.push([token.start, token.end, '__import']);
  }
  for (const [start, end, text] of edits.sort((a, b) => b[0] - a[0])) {
    const lines = source.slice(start, end).replace(/[^\n]/g, '');
    source = source.slice(0, start) + text + lines + source.slice(end);
  }
  return source;
}

function imported(node) {
  const from = `await __import(${JSON.stringify(node.source.value)})`;
  if (!node.specifiers.length) return `${from};`;
  const whole = node.specifiers.find((one) => one.type === 'ImportNamespaceSpecifier');
  const names = node.specifiers
    .filter((one) => one !== whole)
    .map((one) => `${one.imported ? one.imported.name ?? JSON.stringify(one.imported.value) : 'default'}: ${one.local.name}`);
  const parts = [];
  if (whole) parts.push(`${whole.local.name} = ${from}`);
  if (names.length) parts.push(`{ ${names.join(', ')} } = ${whole ? whole.local.name : from}`);
  return `const ${parts.join(', ')};`;
}

function load(name, file) {
  let source = fs.readFileSync(file, 'utf8');
  if (!name.endsWith('.ts')) return asScript(source);
  const mark = source.lastIndexOf('//# sourceMappingURL=data:application/json;base64,');
  if (mark >= 0) {
    const encoded = source.slice(mark).split(',')[1];
    maps.set(name, new SourceMap(JSON.parse(Buffer.from(encoded, 'base64').toString())));
    source = source.slice(0, mark);
  }
  return asScript(source);
}

// --- a cell's life

function next() {
  const [token, holder, file, code] = command().split(' ');
  count += 1;
  stdin = null;
  process.exitCode = undefined;
  let name = file;
  if (count > 1) name = `cell-${count}${path.extname(file)}`;
  const source = load(name, code);
  const args = fs.readFileSync(`/proc/${holder}/fd/5`, 'utf8').split('\0').slice(0, -1);
  process.argv = [process.execPath, name, ...args];
  for (const [variable] of granted) delete process.env[variable];
  const pairs = fs.readFileSync(`/proc/${holder}/fd/7`, 'utf8').split('\0').slice(0, -1);
  granted = pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]);
  for (const [variable, value] of granted) process.env[variable] = value;
  attach(holder);
  const current = { token, name, source, holder, evaluated: false, value: undefined };
  for (const event of ['SIGINT', 'uncaughtException', 'unhandledRejection', 'beforeExit']) {
    process.removeListener(event, listeners[event]);
    process.prependListener(event, listeners[event]);
  }
  // A SIGINT that came too late for the cell before is told while there is no cell.
  setImmediate(() => setImmediate(() => evaluate(current)));
}

function command() {
  const bytes = Buffer.alloc(4096);
  while (!buffered.includes('\n')) {
    const size = fs.readSync(COMMANDS, bytes);
    if (size === 0) reallyExit(0);
    buffered += bytes.toString('latin1', 0, size);
  }
  const end = buffered.indexOf('\n');
  const line = buffered.slice(0, end);
  buffered = buffered.slice(end + 1);
  return line;
}

function evaluate(current) {
  cell = current;
  if (before.size) poll(current);
  const go = () => {
    delete globalThis.__sandboxGo;
    session.post(
      'Runtime.evaluate',
      {
        expression: `${current.source}\n//# sourceURL=${current.name}`,
        replMode: true,
        awaitPromise: true,
        objectGroup: 'cell',
      },
      (error, answer) => evaluated(current, error, answer),
    );
  };
  Object.defineProperty(globalThis, '__sandboxGo', { value: go, configurable: true });
  try {
    new vm.Script('__sandboxGo()', { filename: __filename }).runInThisContext({ breakOnSigint: true });
  } catch (error) {
    if (error.code !== 'ERR_SCRIPT_EXECUTION_INTERRUPTED') throw error;
    interrupt();
  }
}

function evaluated(current, error, answer) {
  if (cell !== current) return;
  current.evaluated = true;
  if (error) return fail(error);
  const value = valueOf(answer.exceptionDetails ? answer.exceptionDetails.exception : answer.result);
  session.post('Runtime.releaseObjectGroup', { objectGroup: 'cell' });
  if (answer.exceptionDetails) fail(value, answer.exceptionDetails);
  else current.value = value;
}

/** The value that the inspector describes. */
function valueOf(remote) {
  const { objectId, unserializableValue, value } = remote;
  let argument = { value };
  if (objectId) argument = { objectId };
  else if (unserializableValue) argument = { unserializableValue };
  else if (remote.type === 'undefined') argument = {};
  session.post('Runtime.callFunctionOn', {
    objectId: caughtId,
    functionDeclaration: 'function (value) { this.value = value; }',
    arguments: [argument],
  });
  const found = caught.value;
  caught.value = undefined;
  return found;
}

function fail(error, details) {
  if (!cell) return;
  cell.value = undefined;
  if (error instanceof Exit) return finish(Number(process.exitCode ?? 0) & 0xff);
  const place = placeOf(error, details);
  const what = place ? String(error) : described(error);
  writeAll(2, Buffer.from(`${place}Uncaught ${what}\n`));
  finish(1);
}

/** Where a cell that V8 can't read is wrong; all other errors have a stack. */
function placeOf(error, details) {
  const broken = error instanceof SyntaxError && details?.scriptId && !details.stackTrace;
  if (!broken || /\n {4}at /.test(error.stack)) return '';
  const { lineNumber, columnNumber } = details;
  const text = cell.source.split('\n')[lineNumber] ?? '';
  return `${original(`${cell.name}:${lineNumber + 1}:${columnNumber + 1}`)}\n${text}\n${' '.repeat(columnNumber)}^\n`;
}

function described(value) {
  try {
    return util.inspect(value);
  } catch (error) {
    return `[a value that can not be shown: ${error?.name}]`;
  }
}

function interrupt() {
  if (!cell) return;
  // What it has started goes on in the cells to come, which must not wait for it.
  before = active();
  finish(130);
}

function active() {
  const found = new Map();
  for (const name of process.getActiveResourcesInfo()) found.set(name, (found.get(name) ?? 0) + 1);
  return found;
}

/** End a cell once nothing is left to do but what an interrupted one has left. */
function poll(current) {
  const timer = setInterval(() => {
    const now = active();
    if (cell !== current) clearInterval(timer);
    else if (current.evaluated && [...now].every(([name, many]) => many <= (before.get(name) ?? 0))) {
      before = now;
      finish(Number(process.exitCode ?? 0) & 0xff);
    }
  }, POLL_MS);
  timer.unref();
}

function finish(code) {
  const { holder, token, value } = cell;
  try {
    if (value !== undefined) send(holder, value);
  } catch {} // the program has meddled with what we need for it
  cell = null;
  session.post('Runtime.releaseObjectGroup', { objectGroup: 'cell' });
  detach();
  fs.writeSync(REPORTS, `${token} ${code}`);
  setImmediate(next);
}

function send(holder, value) {
  let data = Buffer.from(described(value));
  if (util.types.isPromise(value) && data.equals(Buffer.from('Promise { undefined }'))) return;
  if (data.length > REPR_LIMIT) data = Buffer.concat([data.subarray(0, REPR_LIMIT), Buffer.from(`... (${data.length} bytes in all)`)]);
  const head = Buffer.alloc(5);
  head.writeUInt8(VALUE, 0);
  head.writeUInt32BE(data.length, 1);
  const side = fs.openSync(`/proc/${holder}/fd/3`, O_WRONLY);
  writeAll(side, Buffer.concat([head, data]));
  fs.closeSync(side);
}

const listeners = {
  SIGINT: interrupt,
  uncaughtException: (error) => fail(error),
  unhandledRejection: (error) => fail(error),
  beforeExit() {
    if (!cell) return;
    if (cell.evaluated) return finish(Number(process.exitCode ?? 0) & 0xff);
    writeAll(2, Buffer.from('Warning: a top-level await never came to an end\n'));
    finish(13);
  },
};

session.connect();
globalThis.__sandboxCaught = caught;
session.post('Runtime.evaluate', { expression: '__sandboxCaught' }, (_error, answer) => {
  caughtId = answer.result.objectId;
});
delete globalThis.__sandboxCaught;
next();
