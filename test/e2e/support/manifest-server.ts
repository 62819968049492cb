// The web server from which the cluster gets weft.yaml, as users get it from a release page.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';

import { manifestPath } from '../../../deploy/generate.ts';
import { fabric } from '../cluster/settings.ts';

const port = 8000;
export const manifestUrl: string = `http://${fabric.controlPlane}:${port}/weft.yaml`;

/** Serves deploy/weft.yaml, byte for byte, on the fabric. */
export async function serveManifest(): Promise<AsyncDisposable> {
  const server = createServer((request, response) => {
    if (request.url !== '/weft.yaml') {
      response.writeHead(404).end();
      return;
    }
    readFile(manifestPath).then(
      (text) => response.writeHead(200, { 'content-type': 'application/yaml' }).end(text),
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
