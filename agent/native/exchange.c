// Sending a request, receiving what the kernel says to it within a deadline, and the same on a pool thread behind a promise.
#include "exchange.h"

#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// The kernel's dump datagrams are at most 32 KiB; a single message's echo stays below this too.
#define DATAGRAM_ROOM (128u << 10)

bool read_request(napi_env env, const napi_value first[3], napi_value timeout_ms, struct exchange *exchange) {
  int64_t fd, length, timeout;
  uint8_t *data;
  size_t available;
  if (!read_int(env, first[0], &fd) || !read_bytes(env, first[1], &data, &available) || !read_int(env, first[2], &length) ||
      !read_int(env, timeout_ms, &timeout))
    return false;
  if (length < 0 || (size_t)length > available) {
    napi_throw_range_error(env, NULL, "weft addon: the length is beyond the buffer's end");
    return false;
  }
  *exchange = (struct exchange){.fd = (int)fd, .timeout_ms = (int)timeout, .request = data, .request_length = (size_t)length};
  return true;
}

static bool make_room(struct exchange *exchange) {
  if (exchange->reply_room - exchange->reply_length >= DATAGRAM_ROOM) return true;
  size_t room = exchange->reply_room < DATAGRAM_ROOM ? 2 * DATAGRAM_ROOM : exchange->reply_room * 2;
  uint8_t *grown = realloc(exchange->reply_is_lent ? NULL : exchange->reply, room);
  if (grown == NULL) {
    exchange->failure = (struct failure){ENOMEM, "realloc"};
    return false;
  }
  if (exchange->reply_is_lent) memcpy(grown, exchange->reply, exchange->reply_length);
  exchange->reply_is_lent = false;
  exchange->reply = grown;
  exchange->reply_room = room;
  return true;
}

// Waits until the socket is readable or the deadline (0: not yet set) has passed.
static bool wait_readable(struct exchange *exchange, int64_t *deadline) {
  int64_t now = now_ms();
  if (*deadline == 0) *deadline = now + exchange->timeout_ms;
  struct pollfd waiting = {.fd = exchange->fd, .events = POLLIN};
  int ready = poll(&waiting, 1, *deadline > now ? (int)(*deadline - now) : 0);
  if (ready > 0 || (ready < 0 && errno == EINTR)) return true;
  exchange->failure = (struct failure){ready == 0 ? ETIMEDOUT : errno, ready == 0 ? "recvmsg" : "poll"};
  return false;
}

bool receive_one(struct exchange *exchange, size_t *fresh, int64_t *deadline) {
  *fresh = 0;
  if (!make_room(exchange)) return false;
  struct sockaddr_nl sender;
  struct iovec place = {exchange->reply + exchange->reply_length, DATAGRAM_ROOM};
  struct msghdr message = {.msg_name = &sender, .msg_namelen = sizeof sender, .msg_iov = &place, .msg_iovlen = 1};
  ssize_t got = recvmsg(exchange->fd, &message, MSG_DONTWAIT);
  if (got < 0 && errno == EINTR) return true;
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return wait_readable(exchange, deadline);
  if (got < 0) {
    exchange->failure = (struct failure){errno, "recvmsg"};
    return false;
  }
  if (message.msg_flags & MSG_TRUNC) {
    exchange->failure = (struct failure){EMSGSIZE, "recvmsg"};
    return false;
  }
  if (message.msg_namelen != sizeof sender || sender.nl_pid != 0) return true; // another process, not the kernel
  *fresh = (size_t)got;
  return true;
}

bool send_request(struct exchange *exchange) {
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  struct iovec part = {(void *)exchange->request, exchange->request_length};
  struct msghdr message = {.msg_name = &kernel, .msg_namelen = sizeof kernel, .msg_iov = &part, .msg_iovlen = 1};
  ssize_t sent;
  do sent = sendmsg(exchange->fd, &message, 0);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) exchange->failure = (struct failure){errno, "sendmsg"};
  return sent >= 0;
}

static void execute(napi_env env, void *data) {
  (void)env;
  struct job *job = data;
  job->run(job);
}

static void complete(napi_env env, napi_status status, void *data) {
  struct job *job = data;
  if (status == napi_cancelled) job->exchange.failure = (struct failure){ECANCELED, job->name};
  if (job->exchange.failure.number != 0)
    napi_reject_deferred(env, job->deferred, failure_value(env, job->exchange.failure));
  else
    napi_resolve_deferred(env, job->deferred, job->result(env, job));
  napi_delete_async_work(env, job->work);
  free(job->request);
  free(job->exchange.reply);
  free(job);
}

napi_value promise_job(napi_env env, const char *name, const struct exchange *exchange, void (*run)(struct job *),
                       napi_value (*result)(napi_env, const struct job *)) {
  struct job *job = calloc(1, sizeof *job);
  uint8_t *copy = malloc(exchange->request_length + 1);
  if (job == NULL || copy == NULL) {
    free(job);
    free(copy);
    return throw_failure(env, (struct failure){ENOMEM, "malloc"});
  }
  memcpy(copy, exchange->request, exchange->request_length);
  *job = (struct job){.exchange = *exchange, .run = run, .result = result, .name = name, .request = copy};
  job->exchange.request = copy;
  napi_value promise, resource;
  napi_create_promise(env, &job->deferred, &promise);
  napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &resource);
  napi_create_async_work(env, NULL, resource, execute, complete, job, &job->work);
  napi_queue_async_work(env, job->work);
  return promise;
}
