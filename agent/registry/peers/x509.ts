// X.509 v3 certificates (RFC 5280) in DER, as few fields as TLS between nodes needs: ECDSA P-256 with SHA-256, a common name,
// key usage, names. Written here because the libraries for it want a reflection polyfill in the agent; node:crypto signs.

import { createHash, createPublicKey, randomBytes, sign, X509Certificate, type KeyObject } from 'node:crypto';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

export interface CertificateRequest {
  readonly commonName: string;
  readonly publicKey: KeyObject;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** DNS names and addresses of a node; undefined: an authority. */
  readonly names: readonly string[] | undefined;
}

export interface Issuer {
  readonly commonName: string;
  readonly privateKey: KeyObject;
}

const oid = {
  commonName: '2.5.4.3',
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
} as const;

const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  objectIdentifier: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** The certificate as PEM, signed by the issuer. */
export function issueCertificate(request: CertificateRequest, issuer: Issuer): string {
  const algorithm = sequence(objectIdentifier(oid.ecdsaWithSha256));
  // Positive, 16 bytes, never with a redundant leading zero.
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x3f) | 0x40;
  const tbs = sequence(
    node(0xa0, node(tag.integer, Buffer.from([2]))),
    node(tag.integer, serial),
    algorithm,
    distinguishedName(issuer.commonName),
    sequence(time(request.notBefore), time(request.notAfter)),
    distinguishedName(request.commonName),
    spki(request.publicKey),
    node(0xa3, sequence(...extensions(request, issuer))),
  );
  const signature = sign('sha256', tbs, issuer.privateKey);
  const der = sequence(tbs, algorithm, bitString(signature, 0));
  return new X509Certificate(der).toString();
}

function extensions(request: CertificateRequest, issuer: Issuer): readonly Buffer[] {
  const keyIds = [
    extension(oid.subjectKeyIdentifier, false, node(tag.octetString, keyId(request.publicKey))),
    extension(oid.authorityKeyIdentifier, false, sequence(node(0x80, keyId(createPublicKey(issuer.privateKey))))),
  ];
  if (request.names === undefined) {
    const isAuthority = sequence(node(tag.boolean, Buffer.from([0xff])), node(tag.integer, Buffer.from([0])));
    // keyCertSign and cRLSign are bits 5 and 6.
    const usage = bitString(Buffer.from([0x06]), 1);
    return [extension(oid.basicConstraints, true, isAuthority), extension(oid.keyUsage, true, usage), ...keyIds];
  }
  // digitalSignature is bit 0.
  const usage = bitString(Buffer.from([0x80]), 7);
  const purposes = sequence(objectIdentifier(oid.serverAuth), objectIdentifier(oid.clientAuth));
  return [
    extension(oid.basicConstraints, true, sequence()),
    extension(oid.keyUsage, true, usage),
    extension(oid.extendedKeyUsage, false, purposes),
    extension(oid.subjectAltName, false, sequence(...request.names.map((name) => generalName(name)))),
    ...keyIds,
  ];
}

function generalName(name: string): Buffer {
  return isIP(name) === 0
    ? node(0x82, Buffer.from(name, 'ascii'))
    : node(0x87, Buffer.from(ipaddr.parse(name).toByteArray()));
}

function distinguishedName(commonName: string): Buffer {
  return sequence(
    node(tag.set, sequence(objectIdentifier(oid.commonName), node(tag.utf8String, Buffer.from(commonName)))),
  );
}

function extension(id: string, critical: boolean, value: Buffer): Buffer {
  const flag = critical ? [node(tag.boolean, Buffer.from([0xff]))] : [];
  return sequence(objectIdentifier(id), ...flag, node(tag.octetString, value));
}

function spki(key: KeyObject): Buffer {
  return key.export({ type: 'spki', format: 'der' });
}

function keyId(key: KeyObject): Buffer {
  return createHash('sha256').update(spki(key)).digest().subarray(0, 20);
}

/** UTCTime until 2049, GeneralizedTime from 2050 (RFC 5280 section 4.1.2.5). */
function time(at: Date): Buffer {
  const digits = at.toISOString().replaceAll(/[-:T]|\.\d+/g, '');
  const short = at.getUTCFullYear() < 2050;
  return node(short ? tag.utcTime : tag.generalizedTime, Buffer.from(short ? digits.slice(2) : digits, 'ascii'));
}

function objectIdentifier(text: string): Buffer {
  const [first = 0, second = 0, ...rest] = text.split('.').map(Number);
  const bytes = [first * 40 + second];
  for (const part of rest) {
    const groups = [part & 0x7f];
    for (let left = Math.floor(part / 128); left > 0; left = Math.floor(left / 128))
      groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return node(tag.objectIdentifier, Buffer.from(bytes));
}

function bitString(bytes: Buffer, unusedBits: number): Buffer {
  return node(tag.bitString, Buffer.concat([Buffer.from([unusedBits]), bytes]));
}

function sequence(...children: readonly Buffer[]): Buffer {
  return node(tag.sequence, Buffer.concat(children));
}

function node(tagByte: number, content: Buffer): Buffer {
  const { length } = content;
  if (length < 0x80) return Buffer.concat([Buffer.from([tagByte, length]), content]);
  const size = length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tagByte, ...size]), content]);
}
