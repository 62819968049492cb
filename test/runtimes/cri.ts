// What kubelet asks a container runtime (CRI v1, runtime.v1.RuntimeService), as far as tests of a network need it: gRPC over the
// runtime's Unix socket by node:http2, the few messages put together and read by hand. Field numbers are those of cri-api's api.proto.

import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';

/** A message as field number and value; a list of pairs keeps repeated fields. */
type Message = readonly (readonly [number, string | number | Message])[];

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest % 128) + 128);
  }
}

function encode(message: Message): Buffer {
  return Buffer.concat(
    message.map(([field, value]) => {
      if (typeof value === 'number') return Buffer.concat([varint(field * 8), varint(value)]);
      const bytes = typeof value === 'string' ? Buffer.from(value) : encode(value);
      return Buffer.concat([varint(field * 8 + 2), varint(bytes.length), bytes]);
    }),
  );
}

/** Fields of a message: numbers of varints, bytes of everything with a length. */
function decode(bytes: Buffer): ReadonlyMap<number, readonly (number | Buffer)[]> {
  const fields = new Map<number, (number | Buffer)[]>();
  let at = 0;
  const read = (): number => {
    let [value, scale] = [0, 1];
    for (;;) {
      const byte = bytes[at++] ?? 0;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
      scale *= 128;
    }
  };
  while (at < bytes.length) {
    const key = read();
    const kind = key % 8;
    if (kind !== 0 && kind !== 2) throw new Error(`a field of kind ${kind} was not expected`);
    const number = read();
    const value = kind === 0 ? number : bytes.subarray(at, (at += number));
    const field = Math.floor(key / 8);
    fields.set(field, [...(fields.get(field) ?? []), value]);
  }
  return fields;
}

const texts = (values: readonly (number | Buffer)[] = []): readonly string[] =>
  values.map((value) => (typeof value === 'number' ? '' : value.toString()));

export interface Condition {
  readonly isTrue: boolean;
  readonly reason: string;
  readonly message: string;
}

export class Cri {
  readonly #socketPath: string;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /** The condition NetworkReady: kubelet makes the node NotReady when it is not true. */
  async networkReady(): Promise<Condition> {
    const [status] = (await this.#call('Status', [])).get(1) ?? [];
    for (const one of decode(status as Buffer).get(1) ?? []) {
      const condition = decode(one as Buffer);
      const [type, reason, message] = [1, 3, 4].map((field) => texts(condition.get(field))[0] ?? '');
      if (type === 'NetworkReady') {
        return { isTrue: condition.get(2)?.[0] === 1, reason: reason ?? '', message: message ?? '' };
      }
    }
    throw new Error('the runtime does not say whether its network is ready');
  }

  /** Starts a pod without containers; its id. Throws with the runtime's words. */
  async runSandbox(
    name: string,
    { logDirectory, cgroupParent }: { readonly logDirectory: string; readonly cgroupParent: string },
  ): Promise<string> {
    const metadata: Message = [
      [1, name],
      [2, `${name}-uid`],
      [3, 'default'],
    ];
    const config: Message = [
      [1, metadata],
      [2, name],
      [3, logDirectory],
      [8, [[1, cgroupParent]]],
    ];
    return texts((await this.#call('RunPodSandbox', [[1, config]])).get(1))[0] ?? '';
  }

  async sandboxAddress(id: string): Promise<string> {
    const [status] = (await this.#call('PodSandboxStatus', [[1, id]])).get(1) ?? [];
    const [network] = decode(status as Buffer).get(5) ?? [];
    return texts(decode(network as Buffer).get(1))[0] ?? '';
  }

  async stopSandbox(id: string): Promise<void> {
    await this.#call('StopPodSandbox', [[1, id]]);
  }

  async removeSandbox(id: string): Promise<void> {
    await this.#call('RemovePodSandbox', [[1, id]]);
  }

  async #call(method: string, message: Message): Promise<ReadonlyMap<number, readonly (number | Buffer)[]>> {
    const session = connectHttp2('http://localhost', { createConnection: () => connect(this.#socketPath) });
    const failed = new Promise<never>((_resolve, reject) => session.once('error', reject));
    try {
      return await Promise.race([failed, answerOf(session, method, encode(message))]);
    } finally {
      session.destroy();
    }
  }
}

async function answerOf(
  session: ReturnType<typeof connectHttp2>,
  method: string,
  message: Buffer,
): Promise<ReadonlyMap<number, readonly (number | Buffer)[]>> {
  const stream = session.request({
    ':method': 'POST',
    ':path': `/runtime.v1.RuntimeService/${method}`,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  stream.end(Buffer.concat([head, message]));
  const said: Record<string, unknown> = {};
  // An error without an answer has its status among the first headers.
  for (const event of ['response', 'trailers'] as const) stream.on(event, (headers) => Object.assign(said, headers));
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  if (said['grpc-status'] !== '0') {
    throw new Error(`${method}: ${decodeURIComponent(String(said['grpc-message'] ?? said['grpc-status']))}`);
  }
  return decode(Buffer.concat(chunks).subarray(5));
}
