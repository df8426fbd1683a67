// A small HTTP server on Node that can be replaced under load.
//
//     segue run --listen :8080 --ready fd:4 -- /usr/bin/nodejs hello-node.js
//
// Descriptor 3 is the listening socket. Node has no unix datagram sockets, hence no READY=1: a newline
// on descriptor 4 says it. At TERM it accepts no more, and each kept connection gets one more answer,
// with "Connection: close"; one on which no request comes within LINGER seconds is closed. LINGER=0 is
// Node's own close(), which from Node 19 on closes idle connections at once and loses what is on its way.

'use strict';

const fs = require('fs');
const http = require('http');
const net = require('net');

const linger = Number(process.env.LINGER ?? 5);
let stopping = false;

const server = http.createServer((request, response) => {
  request.resume().on('end', () => {
    response.statusCode = request.url === '/hello' ? 200 : 404;
    response.setHeader('Segue-Generation', process.env.SEGUE_GENERATION ?? '0');
    if (stopping) response.setHeader('Connection', 'close');
    response.end('hello, world\n');
  });
});

// Otherwise Node itself closes a connection that has been idle for 5 s, and says nothing.
server.keepAliveTimeout = 75000;

process.on('SIGTERM', () => {
  // Without this a connection that is busy now is served for as long as its client likes.
  stopping = true;
  if (linger === 0) {
    server.close();
    server.closeIdleConnections();
    return;
  }
  // The close() of net.Server ends the listening only; that of http.Server closes idle connections, too.
  net.Server.prototype.close.call(server);
  setTimeout(() => server.closeIdleConnections(), linger * 1000).unref();
});

server.listen({ fd: 3 }, () => fs.writeSync(4, '\n'));
