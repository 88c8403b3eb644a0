// peer.js - @grpc/grpc-js as the other side.
//   node peer.js server PROTO            serves TestService, prints "port=N", ends with its input
//   node peer.js client PROTO ADDRESS    runs every case against a server of ours
'use strict';

const path = require('path');
const assert = require('assert');
const modules = process.env.DROVER_NPM;
const grpc = require(path.join(modules, '@grpc/grpc-js'));
const loader = require(path.join(modules, '@grpc/proto-loader'));

const [role, proto, address] = process.argv.slice(2);
const testing = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true, defaults: true })).grpc.testing;

const INITIAL = 'x-grpc-test-echo-initial';
const TRAILING = 'x-grpc-test-echo-trailing-bin';

// ---- server -------------------------------------------------------------------------------------

function payload(size) {
  return { payload: { body: Buffer.alloc(size) } };
}

/** What came as metadata, told by a status; null if nothing did. */
function told(call) {
  const initial = call.metadata.get(INITIAL);
  if (initial.length === 0) return null;
  const bytes = call.metadata.get(TRAILING).map((value) => value.toString('hex')).join();
  return { code: grpc.status.ABORTED, details: `${initial[0]} ${bytes}` };
}

const service = {
  EmptyCall: (call, done) => done(null, {}),
  UnaryCall: (call, done) => {
    const status = call.request.response_status;
    const error = told(call);
    if (error) done(error);
    else if (status && status.code) done({ code: status.code, details: status.message });
    else done(null, payload(call.request.response_size));
  },
  StreamingInputCall: (call, done) => {
    let total = 0;
    call.on('data', (request) => { total += request.payload.body.length; });
    call.on('end', () => done(null, { aggregated_payload_size: total }));
  },
  StreamingOutputCall: (call) => {
    for (const parameters of call.request.response_parameters) call.write(payload(parameters.size));
    call.end();
  },
  FullDuplexCall: (call) => {
    const error = told(call);
    call.on('data', (request) => {
      const status = error || request.response_status;
      if (status && status.code) {
        call.emit('error', { code: status.code, details: status.details || status.message });
        return;
      }
      for (const parameters of request.response_parameters) call.write(payload(parameters.size));
    });
    call.on('end', () => call.end());
  },
};

function serve() {
  const server = new grpc.Server();
  server.addService(testing.TestService.service, service);
  server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    console.log(`port=${port}`);
  });
  process.stdin.resume();
  process.stdin.on('end', () => server.forceShutdown());
}

// ---- client -------------------------------------------------------------------------------------

function unary(client, method, request, metadata) {
  return new Promise((resolve) => {
    const got = {};
    const deadline = { deadline: Date.now() + 20000 };
    const call = client[method](request, metadata || new grpc.Metadata(), deadline, (error, response) => {
      got.error = error;
      got.response = response;
    });
    call.on('metadata', (header) => { got.header = header; });
    call.on('status', (status) => { got.status = status; resolve(got); });
  });
}

function stream(call) {
  const got = { messages: [] };
  got.over = new Promise((resolve) => {
    call.on('data', (message) => {
      got.messages.push(message.payload.body.length);
      if (got.onMessage) got.onMessage(got.messages.length);
    });
    call.on('metadata', (header) => { got.header = header; });
    call.on('error', () => {});
    call.on('status', (status) => { got.status = status; resolve(); });
  });
  return got;
}

function large() {
  return { response_size: 314159, payload: { body: Buffer.alloc(271828) } };
}

function plan(sizes, size, more) {
  return { response_parameters: sizes.map((n) => ({ size: n })), payload: { body: Buffer.alloc(size || 0) }, ...more };
}

const SIZES = [31415, 9, 2653, 58979];
const WHITESPACE = '\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \u{1f608}\t\n';

const cases = {
  async empty_unary(client) {
    assert.strictEqual((await unary(client, 'EmptyCall', {})).status.code, 0);
  },
  async large_unary(client) {
    assert.strictEqual((await unary(client, 'UnaryCall', large())).response.payload.body.length, 314159);
  },
  client_streaming(client) {
    return new Promise((resolve, reject) => {
      const call = client.StreamingInputCall((error, response) => {
        if (error) reject(error);
        else resolve(assert.strictEqual(response.aggregated_payload_size, 74922));
      });
      for (const size of [27182, 8, 1828, 45904]) call.write({ payload: { body: Buffer.alloc(size) } });
      call.end();
    });
  },
  async server_streaming(client) {
    const got = stream(client.StreamingOutputCall(plan(SIZES)));
    await got.over;
    assert.deepStrictEqual(got.messages, SIZES);
    assert.strictEqual(got.status.code, 0);
  },
  async ping_pong(client) {
    const call = client.FullDuplexCall();
    const got = stream(call);
    got.onMessage = (count) => (count === 4 ? call.end() : call.write(plan([SIZES[count]], 1000)));
    call.write(plan([SIZES[0]], 27182));
    await got.over;
    assert.deepStrictEqual(got.messages, SIZES);
    assert.strictEqual(got.status.code, 0);
  },
  async empty_stream(client) {
    const call = client.FullDuplexCall();
    const got = stream(call);
    call.end();
    await got.over;
    assert.strictEqual(got.status.code, 0);
    assert.strictEqual(got.messages.length, 0);
  },
  async custom_metadata(client) {
    const metadata = new grpc.Metadata();
    metadata.set(INITIAL, 'test_initial_metadata_value');
    metadata.set(TRAILING, Buffer.from('ababab', 'hex'));
    const got = await unary(client, 'UnaryCall', large(), metadata);
    assert.strictEqual(got.status.code, grpc.status.ABORTED);
    assert.strictEqual(got.status.details, 'test_initial_metadata_value ababab');
  },
  async status_code_and_message(client) {
    for (const text of ['test status message', WHITESPACE]) {
      const status = { code: 2, message: text };
      const got = await unary(client, 'UnaryCall', { response_status: status });
      assert.strictEqual(got.status.code, 2);
      assert.strictEqual(got.status.details, text);
      const call = client.FullDuplexCall();
      const duplex = stream(call);
      call.write(plan([], 0, { response_status: status }));
      call.end();
      await duplex.over;
      assert.strictEqual(duplex.status.code, 2);
      assert.strictEqual(duplex.status.details, text);
    }
  },
  async unimplemented(client, other) {
    assert.strictEqual((await unary(client, 'UnimplementedCall', {})).status.code, 12);
    assert.strictEqual((await unary(other, 'UnimplementedCall', {})).status.code, 12);
  },
  async cancel_after_first_response(client) {
    const call = client.FullDuplexCall();
    const got = stream(call);
    got.onMessage = () => call.cancel();
    call.write(plan([31415], 27182));
    await got.over;
    assert.strictEqual(got.status.code, 1);
  },
  async timeout_on_sleeping_server(client) {
    const call = client.FullDuplexCall({ deadline: Date.now() + 50 });
    const got = stream(call);
    call.write(plan([], 27182));
    await got.over;
    assert.strictEqual(got.status.code, 4);
  },
  async compressed_requests_are_rejected() {
    const client = new testing.TestService(address, grpc.credentials.createInsecure(),
      { 'grpc.default_compression_algorithm': 2 });
    assert.strictEqual((await unary(client, 'UnaryCall', large())).status.code, 12);
    client.close();
  },
  async many_at_once(client) {
    const all = await Promise.all(Array.from({ length: 100 }, () => unary(client, 'UnaryCall', large())));
    for (const got of all) assert.strictEqual(got.response.payload.body.length, 314159);
  },
};

async function runAll() {
  const client = new testing.TestService(address, grpc.credentials.createInsecure());
  const other = new testing.UnimplementedService(address, grpc.credentials.createInsecure());
  for (const [name, run] of Object.entries(cases)) {
    try {
      await run(client, other);
      console.log(`pass ${name}`);
    } catch (error) {
      console.log(`fail ${name}: ${error.message.split('\n')[0]}`);
      process.exitCode = 1;
    }
  }
  client.close();
  other.close();
}

if (role === 'server') serve();
else runAll();
