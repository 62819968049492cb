// The bill of materials names everything once, by its package URL.
import { expect, test } from 'vitest';

import { componentsOf, spdxDocument } from '../../../deploy/sbom.ts';

const npm = [{ name: '@fastify/error', version: '4.2.1', license: 'MIT' }];
const debian = 'libc6 2.36-9+deb12u14 arm64\nlibgmp10 2:6.2.1+dfsg1-1.1 arm64\n';
const node = { name: 'node', version: '24.0.0', license: 'MIT', purl: 'pkg:generic/node@24.0.0' };

test('names every component with a package URL', () => {
  expect(componentsOf(npm, debian, [node]).map(({ purl }) => purl)).toEqual([
    'pkg:npm/%40fastify/error@4.2.1',
    'pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=arm64',
    'pkg:deb/debian/libgmp10@2%3A6.2.1%2Bdfsg1-1.1?arch=arm64',
    'pkg:generic/node@24.0.0',
  ]);
  expect(() => componentsOf([], 'libc6\n', [])).toThrow('not "name version architecture": libc6');
});

test('is an SPDX document in which weft contains the others, the same for the same components', () => {
  const at = new Date('2026-01-02T03:04:05.678Z');
  const document = spdxDocument(componentsOf(npm, debian, [node]), at) as {
    readonly packages: readonly { readonly SPDXID: string; readonly name: string }[];
    readonly relationships: readonly { readonly relationshipType: string; readonly relatedSpdxElement: string }[];
  };
  expect(document).toMatchObject({ spdxVersion: 'SPDX-2.3', creationInfo: { created: '2026-01-02T03:04:05Z' } });
  expect(document.packages.map(({ name }) => name)).toEqual(['weft', '@fastify/error', 'libc6', 'libgmp10', 'node']);
  expect(new Set(document.packages.map(({ SPDXID }) => SPDXID)).size).toBe(5);
  expect(document.relationships.map(({ relationshipType }) => relationshipType)).toEqual([
    'DESCRIBES',
    ...Array(4).fill('CONTAINS'),
  ]);
  expect(spdxDocument(componentsOf(npm, debian, [node]), at)).toEqual(document);
});
