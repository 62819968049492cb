// One exchange with the kernel over a netlink socket, and one that a pool thread makes, as netlink.c and digest.c share them.
#ifndef WEFT_EXCHANGE_H
#define WEFT_EXCHANGE_H

#include "weft.h"

struct exchange {
  int fd;
  uint32_t last_sequence;     // its acknowledgement or NLMSG_DONE ends the exchange
  uint32_t terminal_sequence; // an error for it ends the exchange too (0: none)
  int timeout_ms;
  const uint8_t *request;
  size_t request_length;
  uint8_t *reply; // every datagram received, one after the other
  size_t reply_length;
  size_t reply_room;
  bool reply_is_lent; // the caller's, until more comes than it holds; else malloc'd
  struct failure failure;
};

// first[0..2]: a descriptor, a buffer and how many bytes of it are the request. False with an error pending.
bool read_request(napi_env env, const napi_value first[3], napi_value timeout_ms, struct exchange *exchange);

// Sends the request. False with `failure` filled.
bool send_request(struct exchange *exchange);

// One datagram from the kernel behind what is there already. False ends the exchange; *fresh is the datagram's length, 0 when there is
// none yet. *deadline begins as 0.
bool receive_one(struct exchange *exchange, size_t *fresh, int64_t *deadline);

struct job {
  struct exchange exchange;
  uint64_t digest; // digest.c's
  void (*run)(struct job *job);
  napi_value (*result)(napi_env env, const struct job *job);
  const char *name;
  uint8_t *request;
  napi_async_work work;
  napi_deferred deferred;
};

// Promises what `result` makes of the job once `run` has been through it on a pool thread, or the failure that `run` left in it. The
// request's bytes are copied before this returns. `name` lives as long as the process.
napi_value promise_job(napi_env env, const char *name, const struct exchange *exchange, void (*run)(struct job *),
                       napi_value (*result)(napi_env, const struct job *));

#endif
