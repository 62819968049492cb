// What the addon's files share: errno as a JavaScript error, argument reading, work inside another network namespace.
#ifndef WEFT_H
#define WEFT_H

#define NAPI_VERSION 8
#define _GNU_SOURCE
#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A failed system call: number is its errno (0: none), call the C function's name.
struct failure {
  int number;
  const char *call;
};

// Runs work(argument) inside the network namespace at path (NULL: the caller's own); the calling thread is back in its own when
// this returns. False with *failure filled when the namespace cannot be had.
bool in_netns(const char *path, void (*work)(void *), void *argument, struct failure *failure);

// The same for an open namespace.
bool in_open_netns(int there, void (*work)(void *), void *argument, struct failure *failure);

// Milliseconds of a clock that nobody sets.
int64_t now_ms(void);

// Opens a netlink socket inside a namespace: extended ACK, capped ACK and strict checking on, non-blocking off, close-on-exec.
// Returns the descriptor or -1.
int netlink_open(int protocol, const char *netns_path, int receive_buffer_bytes, struct failure *failure);

// Throws an Error with `errno` (positive) and `syscall`; returns NULL for `return throw_failure(…)`.
napi_value throw_failure(napi_env env, struct failure failure);
// The same Error as a value, for a promise's rejection.
napi_value failure_value(napi_env env, struct failure failure);

// Arguments. Each returns false with a TypeError pending when the value has another type.
bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments);
bool read_int(napi_env env, napi_value value, int64_t *result);
// A malloc'd copy; NULL for null, undefined and "".
bool read_string(napi_env env, napi_value value, char **result);
bool read_bytes(napi_env env, napi_value value, uint8_t **data, size_t *length);
bool read_external(napi_env env, napi_value value, const void *tag, void **result);

struct function {
  const char *name;
  napi_callback callback;
};
void add_functions(napi_env env, napi_value exports, const struct function *functions, size_t count);

void init_netns(napi_env env, napi_value exports);
void init_netlink(napi_env env, napi_value exports);
void init_digest(napi_env env, napi_value exports);
void init_monitor(napi_env env, napi_value exports);
void init_nftables(napi_env env, napi_value exports);
void init_probe(napi_env env, napi_value exports);
void init_udp(napi_env env, napi_value exports);
void init_memory(napi_env env, napi_value exports);
void init_listener(napi_env env, napi_value exports);

#endif
