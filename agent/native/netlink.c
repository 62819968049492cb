// Netlink requests: one sendmsg of many messages, then receive until the last one's sequence number is acknowledged, its dump
// is done or the batch as a whole is refused. The kernel works through rtnetlink messages in order while sendmsg runs, so the last
// acknowledgement says that every earlier error is already in the queue. Synchronous on the calling thread (about 10 us), or the same
// on a pool thread.
#include "exchange.h"

#include <errno.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef NETLINK_GET_STRICT_CHK
#define NETLINK_GET_STRICT_CHK 12
#endif

struct opening {
  int protocol;
  int receive_buffer_bytes;
  int fd;
  struct failure failure;
};

static void open_here(void *argument) {
  struct opening *opening = argument;
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, opening->protocol);
  if (fd < 0) {
    opening->failure = (struct failure){errno, "socket"};
    return;
  }
  struct sockaddr_nl local = {.nl_family = AF_NETLINK};
  if (bind(fd, (struct sockaddr *)&local, sizeof local) != 0) {
    opening->failure = (struct failure){errno, "bind"};
    close(fd);
    return;
  }
  int on = 1, bytes = opening->receive_buffer_bytes;
  setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
  setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on);
  if (bytes > 0 && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0)
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  int send_bytes = 1 << 20;
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &send_bytes, sizeof send_bytes) != 0)
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
  opening->fd = fd;
}

int netlink_open(int protocol, const char *netns_path, int receive_buffer_bytes, struct failure *failure) {
  struct opening opening = {.protocol = protocol, .receive_buffer_bytes = receive_buffer_bytes, .fd = -1};
  if (!in_netns(netns_path, open_here, &opening, failure)) return -1;
  if (opening.fd < 0) *failure = opening.failure;
  return opening.fd;
}

static int open_in(int netns, int protocol, int receive_buffer_bytes, struct failure *failure) {
  struct opening opening = {.protocol = protocol, .receive_buffer_bytes = receive_buffer_bytes, .fd = -1};
  if (!in_open_netns(netns, open_here, &opening, failure)) return -1;
  if (opening.fd < 0) *failure = opening.failure;
  return opening.fd;
}

// netlinkOpen(protocol, netnsPath | netnsFd | null, receiveBufferBytes) -> fd
static napi_value open_socket(napi_env env, napi_callback_info info) {
  napi_value arguments[3], result;
  int64_t protocol, bytes, netns = -1;
  char *path = NULL;
  napi_valuetype type;
  if (!read_arguments(env, info, 3, arguments) || !read_int(env, arguments[0], &protocol) || !read_int(env, arguments[2], &bytes) ||
      napi_typeof(env, arguments[1], &type) != napi_ok ||
      !(type == napi_number ? read_int(env, arguments[1], &netns) : read_string(env, arguments[1], &path)))
    return NULL;
  struct failure failure = {0, ""};
  int fd = type == napi_number ? open_in((int)netns, (int)protocol, (int)bytes, &failure)
                               : netlink_open((int)protocol, path, (int)bytes, &failure);
  free(path);
  if (fd < 0) return throw_failure(env, failure);
  napi_create_int32(env, fd, &result);
  return result;
}

// netlinkClose(fd)
static napi_value close_socket(napi_env env, napi_callback_info info) {
  napi_value argument;
  int64_t fd;
  if (!read_arguments(env, info, 1, &argument) || !read_int(env, argument, &fd)) return NULL;
  close((int)fd);
  return NULL;
}

static bool ends_exchange(const struct exchange *exchange, const uint8_t *data, size_t length) {
  while (length >= sizeof(struct nlmsghdr)) {
    const struct nlmsghdr *header = (const struct nlmsghdr *)data;
    if (header->nlmsg_len < sizeof *header || header->nlmsg_len > length) return false;
    bool is_end = header->nlmsg_type == NLMSG_ERROR || header->nlmsg_type == NLMSG_DONE;
    if (is_end && header->nlmsg_seq == exchange->last_sequence) return true;
    if (is_end && exchange->terminal_sequence != 0 && header->nlmsg_seq == exchange->terminal_sequence) return true;
    size_t step = NLMSG_ALIGN(header->nlmsg_len);
    if (step >= length) return false;
    data += step;
    length -= step;
  }
  return false;
}

static void run_exchange(struct exchange *exchange) {
  if (!send_request(exchange)) return;
  int64_t deadline = 0;
  size_t fresh;
  while (receive_one(exchange, &fresh, &deadline)) {
    const uint8_t *data = exchange->reply + exchange->reply_length;
    exchange->reply_length += NLMSG_ALIGN(fresh); // the next datagram begins aligned, as messages do
    if (ends_exchange(exchange, data, fresh)) return;
  }
}

static bool read_exchange(napi_env env, const napi_value arguments[6], struct exchange *exchange) {
  int64_t last, terminal;
  if (!read_request(env, arguments, arguments[5], exchange) || !read_int(env, arguments[3], &last) || !read_int(env, arguments[4], &terminal))
    return false;
  exchange->last_sequence = (uint32_t)last;
  exchange->terminal_sequence = (uint32_t)terminal;
  return true;
}

// The port of a socket whose exchange brought nothing but the last message's acknowledgement, 0 for any other.
static uint32_t accepting_port(const struct exchange *exchange) {
  const struct nlmsghdr *header = (const struct nlmsghdr *)exchange->reply;
  const struct nlmsgerr *outcome;
  if (exchange->reply_length < NLMSG_LENGTH(sizeof *outcome) || NLMSG_ALIGN(header->nlmsg_len) != exchange->reply_length) return 0;
  outcome = NLMSG_DATA(header);
  return header->nlmsg_type == NLMSG_ERROR && outcome->error == 0 && header->nlmsg_seq == exchange->last_sequence ? header->nlmsg_pid : 0;
}

// netlinkRequest(fd, buffer, length, lastSequence, terminalSequence, timeoutMs, room) -> how many bytes of reply are in `room`, a Buffer
// with the reply where it did not fit there, or, negative, the socket's port where everything was accepted and nothing else was said:
// there is nothing to read then, and most exchanges end so. A Buffer for each reply would cost an ADD as much as a system call does.
static napi_value request_sync(napi_env env, napi_callback_info info) {
  napi_value arguments[7], result = NULL;
  struct exchange exchange;
  uint8_t *room;
  size_t length;
  if (!read_arguments(env, info, 7, arguments) || !read_exchange(env, arguments, &exchange) ||
      !read_bytes(env, arguments[6], &room, &length))
    return NULL;
  exchange.reply = room;
  exchange.reply_room = length;
  exchange.reply_is_lent = true;
  run_exchange(&exchange);
  uint32_t port;
  if (exchange.failure.number != 0)
    throw_failure(env, exchange.failure);
  else if ((port = accepting_port(&exchange)) != 0)
    napi_create_int64(env, -(int64_t)port, &result);
  else if (exchange.reply_is_lent)
    napi_create_int64(env, (int64_t)exchange.reply_length, &result);
  else
    napi_create_buffer_copy(env, exchange.reply_length, exchange.reply, NULL, &result);
  if (!exchange.reply_is_lent) free(exchange.reply);
  return result;
}

static void run_job(struct job *job) { run_exchange(&job->exchange); }

static napi_value reply_of(napi_env env, const struct job *job) {
  napi_value result;
  napi_create_buffer_copy(env, job->exchange.reply_length, job->exchange.reply, NULL, &result);
  return result;
}

// netlinkRequestAsync(the same without `room`) -> Promise<Buffer>; the request's bytes are copied before it returns.
static napi_value request_async(napi_env env, napi_callback_info info) {
  napi_value arguments[6];
  struct exchange exchange;
  if (!read_arguments(env, info, 6, arguments) || !read_exchange(env, arguments, &exchange)) return NULL;
  return promise_job(env, "netlinkRequestAsync", &exchange, run_job, reply_of);
}

void init_netlink(napi_env env, napi_value exports) {
  static const struct function functions[] = {
      {"netlinkOpen", open_socket},
      {"netlinkClose", close_socket},
      {"netlinkRequest", request_sync},
      {"netlinkRequestAsync", request_async},
  };
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
