// deploy/weft.yaml is what deploy/base says, with the image's name put in, and nothing of another release.
import { readFile } from 'node:fs/promises';

import { describe, expect, test } from 'vitest';

import { defaultImage, manifestPath, renderManifest } from '../../../deploy/generate.ts';

describe('deploy/weft.yaml', () => {
  test('is up to date (node deploy/generate.ts writes it)', async () => {
    expect(await readFile(manifestPath, 'utf8')).toBe(await renderManifest());
  });

  test('names one image, the one asked for', async () => {
    const images = (text: string): readonly string[] =>
      [...text.matchAll(/^\s+image: (\S+)$/gm)].map((match) => match[1] ?? '');
    expect(new Set(images(await renderManifest()))).toEqual(new Set([defaultImage]));
    expect(new Set(images(await renderManifest('example.test/weft:9.9.9')))).toEqual(
      new Set(['example.test/weft:9.9.9']),
    );
  });

  test('comes in the order in which objects must exist, and uses no kind that it defines itself', async () => {
    const kinds = [...(await renderManifest()).matchAll(/^kind: (\S+)$/gm)].map((match) => match[1]);
    expect(kinds[0]).toBe('Namespace');
    // `kubectl apply` looks up every kind of the file before it creates the first object.
    expect(kinds).toContain('CustomResourceDefinition');
    expect(kinds).not.toContain('Universe');
    expect(kinds.indexOf('ServiceAccount')).toBeLessThan(kinds.indexOf('DaemonSet'));
    expect(kinds.indexOf('ConfigMap')).toBeLessThan(kinds.indexOf('DaemonSet'));
  });
});
