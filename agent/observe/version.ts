// The version of this build, from the one place that has it; works as source and as a bundle.

import manifest from '../../package.json' with { type: 'json' };

export const version: string = manifest.version;
