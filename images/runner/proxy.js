// The way out for Node.js, which knows no proxy variables before its version 24: loaded into each node process by
// NODE_OPTIONS where a way out is granted. What `http`, `https` and `fetch` connect to goes through the proxy as a
// tunnel, by the variables as they are then; what a program makes itself (agents, sockets) is its own.
'use strict';

const http = require('http');
const https = require('https');
const net = require('net');

const DISPATCHER = Symbol.for('undici.globalDispatcher.1');
const SECONDS = 30;

/** Where the proxy for this host is, or null. */
function proxyFor(secure, host) {
  const { env } = process;
  const name = secure ? 'HTTPS_PROXY' : 'HTTP_PROXY';
  const where = env[name] || env[name.toLowerCase()];
  if (!where) return null;
  const exceptions = (env.NO_PROXY || env.no_proxy || '').split(',').map((each) => each.trim().replace(/^\*?\./, ''));
  const plain = host.replace(/^\[|\]$/g, '').toLowerCase();
  if (exceptions.some((each) => each && (each === '*' || plain === each || plain.endsWith(`.${each}`)))) return null;
  try {
    return new URL(where);
  } catch {
    return null;
  }
}

/** A socket to that host through the proxy. */
function tunnel(proxy, host, port, done) {
  const name = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
  const where = { host: proxy.hostname.replace(/^\[|\]$/g, ''), port: proxy.port || 80 };
  const request = http.request({
    method: 'CONNECT',
    path: `${name}:${port}`,
    headers: { Host: `${name}:${port}` },
    createConnection: () => net.connect(where), // an agent's would ask for the way to the proxy in turn
    timeout: SECONDS * 1000,
  });
  request.once('timeout', () => request.destroy(new Error('the proxy does not answer')));
  request.once('error', done);
  request.once('connect', (answer, socket, head) => {
    socket.setTimeout(0);
    if (answer.statusCode !== 200) {
      socket.destroy();
      const error = new Error(`${answer.statusCode} ${answer.statusMessage}`);
      return done(Object.assign(error, { code: 'EPROXY' }));
    }
    if (head.length) socket.unshift(head);
    return done(null, socket);
  });
  request.end();
}

for (const [{ Agent }, secure] of [[http, false], [https, true]]) {
  const direct = Agent.prototype.createConnection;
  Agent.prototype.createConnection = function createConnection(...args) {
    const [options, done] = args;
    const host = String(options?.host || options?.hostname || 'localhost');
    const proxy = !options || options.socketPath || options.path?.startsWith?.('\0') ? null : proxyFor(secure, host);
    if (!proxy || typeof done !== 'function') return direct.apply(this, args);
    tunnel(proxy, host, options.port, (error, socket) => {
      if (error || !secure) return done(error, socket);
      return done(null, direct.call(this, { ...options, socket }));
    });
    return undefined;
  };
}

/** For fetch. Its agent is not to be had by name, only as what is there already. */
function connect(options, done) {
  const secure = options.protocol === 'https:';
  const port = options.port || (secure ? 443 : 80);
  const proxy = proxyFor(secure, options.hostname);
  const begin = (socket) => {
    if (!secure) return done(null, socket);
    const name = options.servername || options.hostname;
    const encrypted = require('tls').connect({ socket, servername: name, ALPNProtocols: ['http/1.1'] });
    encrypted.once('error', done);
    encrypted.once('secureConnect', () => {
      encrypted.removeListener('error', done);
      done(null, encrypted);
    });
    return undefined;
  };
  if (proxy) return tunnel(proxy, options.hostname, port, (error, socket) => (error ? done(error) : begin(socket)));
  const socket = net.connect(port, options.hostname);
  socket.once('error', done);
  socket.once('connect', () => {
    socket.removeListener('error', done);
    begin(socket);
  });
  return undefined;
}

const original = globalThis.fetch;
if (typeof original === 'function') {
  let ready = false;
  globalThis.fetch = function fetch(...args) {
    if (!ready) {
      ready = true;
      void globalThis.Response; // makes it load what fetch is made of
      const there = globalThis[DISPATCHER];
      if (there?.constructor?.name === 'Agent') globalThis[DISPATCHER] = new there.constructor({ connect });
    }
    return original.apply(this, args);
  };
}
