// One seed for the codecs' property tests: printed always, WEFT_SEED replays it.
const given = process.env['WEFT_SEED'];

export const seed: number = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);

console.log(`netlink property tests: WEFT_SEED=${seed}`);
