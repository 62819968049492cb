// The web server from which the cluster gets weft.yaml, as users get it from a release page.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';

import { manifestPath } from '../../../deploy/generate.ts';
import { dualRanges, fabric, type ClusterSettings } from '../cluster/settings.ts';

const port = 8000;
export const manifestUrl: string = `http://${fabric.controlPlane}:${port}/weft.yaml`;

/** Serves deploy/weft.yaml on the fabric: byte for byte, or for a dual-stack cluster with its ranges in the ConfigMap. */
export async function serveManifest({ families }: ClusterSettings): Promise<AsyncDisposable> {
  const settings = families === 'dual' ? { ranges: dualRanges } : {};
  const server = createServer((request, response) => {
    if (request.url !== '/weft.yaml') {
      response.writeHead(404).end();
      return;
    }
    readFile(manifestPath, 'utf8').then(
      (text) =>
        response
          .writeHead(200, { 'content-type': 'application/yaml' })
          .end(text.replace(/^ {4}\{\}$/m, `    ${JSON.stringify(settings)}`)),
      (error: unknown) => response.writeHead(500).end(String(error)),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, fabric.controlPlane, resolve);
  });
  return {
    async [Symbol.asyncDispose](): Promise<void> {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
