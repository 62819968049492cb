// VERSION, for those who ask the agent itself; the shim answers it alone.

import { cniVersions, newestVersion } from './versions.ts';

export function version(): Readonly<Record<string, unknown>> {
  return { cniVersion: newestVersion, supportedVersions: cniVersions };
}
