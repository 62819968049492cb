// A netlink multicast listener: its own thread drains the socket while JavaScript is busy and hands whole datagrams over by a
// threadsafe function. Lost notifications (the kernel's ENOBUFS, or more unread bytes than the limit) become an overrun event, never silence.
//
//   kernel ──> socket buffer ──> thread (chunks of datagrams) ──> threadsafe queue, bounded ──> callback(kind, value)
//
// Beside it the thread can ask for the generation of nftables' ruleset now and then: to be told of every rule would cost whoever loads them.
#include "generation.h"
#include "weft.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK_ROOM (128u << 10)
#define DATAGRAM_ROOM (64u << 10)
#define GATHER_MS 5

enum event_kind { EVENT_DATA = 0, EVENT_OVERRUN = 1, EVENT_ERROR = 2, EVENT_GENERATION = 3 };

static const char monitor_tag;

struct monitor {
  const void *tag;
  int fd;
  int stop;
  bool running;
  pthread_t thread;
  napi_threadsafe_function deliver;
  atomic_size_t pending_bytes;
  atomic_bool overrun_announced;
  size_t pending_limit;
  int generation_fd; // -1: nobody wants it
  int generation_every_ms;
  uint32_t generation;
};

struct event {
  enum event_kind kind;
  int error;
  size_t length;
  uint8_t data[];
};

static bool send_event(struct monitor *monitor, struct event *event) {
  atomic_fetch_add(&monitor->pending_bytes, event->length);
  if (napi_call_threadsafe_function(monitor->deliver, event, napi_tsfn_nonblocking) == napi_ok) return true;
  atomic_fetch_sub(&monitor->pending_bytes, event->length);
  free(event);
  return false;
}

static void send_plain(struct monitor *monitor, enum event_kind kind, int error) {
  struct event *event = calloc(1, sizeof *event);
  if (event == NULL) return;
  event->kind = kind;
  event->error = error;
  send_event(monitor, event);
}

// Reads what is there, up to a chunk. Returns 0, or the errno that ended it (EAGAIN: drained).
static int read_chunk(struct monitor *monitor, struct event *event) {
  while (event->length + DATAGRAM_ROOM <= CHUNK_ROOM) {
    struct sockaddr_nl sender;
    struct iovec place = {event->data + event->length, DATAGRAM_ROOM};
    struct msghdr message = {.msg_name = &sender, .msg_namelen = sizeof sender, .msg_iov = &place, .msg_iovlen = 1};
    ssize_t got = recvmsg(monitor->fd, &message, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (message.msg_flags & MSG_TRUNC) return ENOBUFS; // larger than any notification is: treat as lost
    if (sender.nl_pid == 0) event->length += NLMSG_ALIGN((size_t)got);
  }
  return 0;
}

// Losses until JavaScript has been told are one overrun: upon it the listener reads everything anew.
static void report_overrun(struct monitor *monitor) {
  if (!atomic_exchange(&monitor->overrun_announced, true)) send_plain(monitor, EVENT_OVERRUN, ENOBUFS);
}

enum turn { TURN_DRAINED, TURN_MORE, TURN_BROKEN };

// One turn: a chunk at most.
static enum turn drain(struct monitor *monitor) {
  struct event *event = malloc(sizeof *event + CHUNK_ROOM);
  if (event == NULL) {
    send_plain(monitor, EVENT_ERROR, ENOMEM);
    return TURN_BROKEN;
  }
  *event = (struct event){.kind = EVENT_DATA};
  int error = read_chunk(monitor, event);
  // With nothing waiting a chunk goes through whatever its size, else a limit below one chunk would pass nothing ever.
  size_t waiting = atomic_load(&monitor->pending_bytes);
  bool too_much = waiting > 0 && waiting + event->length > monitor->pending_limit;
  if (event->length > 0 && !too_much) {
    struct event *fitted = realloc(event, sizeof *event + event->length);
    send_event(monitor, fitted == NULL ? event : fitted);
  } else {
    free(event);
  }
  if (error == ENOBUFS || too_much) {
    report_overrun(monitor);
  } else if (error != 0 && error != EAGAIN) {
    send_plain(monitor, EVENT_ERROR, error);
    return TURN_BROKEN;
  }
  return error == EAGAIN ? TURN_DRAINED : TURN_MORE;
}

// What cannot be had is not told of: JavaScript looks by itself now and then.
static void look_at_generation(struct monitor *monitor) {
  if (generation_changed(monitor->generation_fd, &monitor->generation)) send_plain(monitor, EVENT_GENERATION, 0);
}

static void *listen_thread(void *argument) {
  struct monitor *monitor = argument;
  struct pollfd waiting[2] = {{.fd = monitor->fd, .events = POLLIN}, {.fd = monitor->stop, .events = POLLIN}};
  bool looks = monitor->generation_fd >= 0;
  int64_t look_at_ms = now_ms();
  for (;;) {
    int64_t left = look_at_ms - now_ms();
    if (looks && left <= 0) {
      look_at_generation(monitor);
      look_at_ms = now_ms() + monitor->generation_every_ms;
      left = monitor->generation_every_ms;
    }
    int ready = poll(waiting, 2, looks ? (int)left : -1);
    if (ready < 0) {
      if (errno == EINTR) continue;
      break;
    }
    if (ready == 0) continue;
    if (waiting[1].revents != 0) break;
    // Gather what one change brings with it: JavaScript is woken once for all of it, and not in the middle of an ADD.
    if (poll(&waiting[1], 1, GATHER_MS) > 0) break;
    enum turn turn = TURN_MORE;
    while (turn == TURN_MORE && poll(&waiting[1], 1, 0) == 0) turn = drain(monitor);
    if (turn == TURN_BROKEN) break;
  }
  return NULL;
}

static void call_javascript(napi_env env, napi_value callback, void *context, void *data) {
  struct monitor *monitor = context;
  struct event *event = data;
  atomic_fetch_sub(&monitor->pending_bytes, event->length);
  if (env != NULL && callback != NULL) {
    napi_value receiver, arguments[2];
    napi_get_undefined(env, &receiver);
    napi_create_int32(env, event->kind, &arguments[0]);
    if (event->kind == EVENT_DATA)
      napi_create_buffer_copy(env, event->length, event->data, NULL, &arguments[1]);
    else
      napi_create_int32(env, event->error, &arguments[1]);
    if (event->kind == EVENT_OVERRUN) atomic_store(&monitor->overrun_announced, false);
    // A listener that throws is an uncaught exception like any other; Node-API would only warn.
    if (napi_call_function(env, receiver, callback, 2, arguments, NULL) == napi_pending_exception) {
      napi_value thrown;
      napi_get_and_clear_last_exception(env, &thrown);
      napi_fatal_exception(env, thrown);
    }
  }
  free(event);
}

// -1: there is none.
static void close_all(int fd, int stop, int generation_fd) {
  if (fd >= 0) close(fd);
  if (stop >= 0) close(stop);
  if (generation_fd >= 0) close(generation_fd);
}

static void stop_thread(void *argument) {
  struct monitor *monitor = argument;
  if (!monitor->running) return;
  monitor->running = false;
  uint64_t one = 1;
  while (write(monitor->stop, &one, sizeof one) < 0 && errno == EINTR) {
  }
  pthread_join(monitor->thread, NULL);
  close_all(monitor->fd, monitor->stop, monitor->generation_fd);
}

// The monitor's memory goes when both the threadsafe function and the JavaScript handle are gone.
static void release_part(struct monitor *monitor) {
  if (monitor->tag == NULL)
    free(monitor);
  else
    monitor->tag = NULL;
}

static void finalize_deliver(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release_part(data);
}

static void end_monitor(napi_env env, struct monitor *monitor) {
  if (!monitor->running) return;
  napi_remove_env_cleanup_hook(env, stop_thread, monitor);
  stop_thread(monitor);
  napi_release_threadsafe_function(monitor->deliver, napi_tsfn_abort);
}

static void finalize_handle(napi_env env, void *data, void *hint) {
  (void)hint;
  end_monitor(env, data);
  release_part(data);
}

static bool join_groups(napi_env env, int fd, napi_value groups, struct failure *failure) {
  uint32_t count = 0;
  napi_get_array_length(env, groups, &count);
  for (uint32_t i = 0; i < count; i++) {
    napi_value element;
    int64_t group;
    if (napi_get_element(env, groups, i, &element) != napi_ok || napi_get_value_int64(env, element, &group) != napi_ok) {
      *failure = (struct failure){EINVAL, "NETLINK_ADD_MEMBERSHIP"};
      return false;
    }
    int number = (int)group;
    if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &number, sizeof number) != 0) {
      *failure = (struct failure){errno, "NETLINK_ADD_MEMBERSHIP"};
      return false;
    }
  }
  return true;
}

// False: the monitor is freed here or by what was made of it, its descriptors are the caller's to close.
static bool start_thread(napi_env env, struct monitor *monitor, napi_value callback, struct failure *failure) {
  napi_value name;
  napi_create_string_utf8(env, "weft.netlink.monitor", NAPI_AUTO_LENGTH, &name);
  if (napi_create_threadsafe_function(env, callback, NULL, name, 0, 1, monitor, finalize_deliver, monitor, call_javascript,
                                      &monitor->deliver) != napi_ok) {
    *failure = (struct failure){EINVAL, "napi_create_threadsafe_function"};
    free(monitor);
    return false;
  }
  napi_unref_threadsafe_function(env, monitor->deliver);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&monitor->thread, NULL, listen_thread, monitor);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error != 0) {
    *failure = (struct failure){error, "pthread_create"};
    monitor->tag = NULL; // no handle will exist: the finalizer of the threadsafe function frees
    napi_release_threadsafe_function(monitor->deliver, napi_tsfn_abort);
    return false;
  }
  monitor->running = true;
  // After the threadsafe function's own hook, so it runs before it: the thread ends first.
  napi_add_env_cleanup_hook(env, stop_thread, monitor);
  return true;
}

// monitorOpen(protocol, netnsPath | null, groups, receiveBufferBytes, pendingLimitBytes, generationEveryMs | 0, callback(kind, value))
// -> handle
static napi_value monitor_open(napi_env env, napi_callback_info info) {
  napi_value arguments[7], result;
  int64_t protocol, bytes, limit, generation_every_ms;
  char *path;
  if (!read_arguments(env, info, 7, arguments) || !read_int(env, arguments[0], &protocol) || !read_int(env, arguments[3], &bytes) ||
      !read_int(env, arguments[4], &limit) || !read_int(env, arguments[5], &generation_every_ms) ||
      !read_string(env, arguments[1], &path))
    return NULL;
  struct failure failure = {0, ""};
  int fd = netlink_open((int)protocol, path, (int)bytes, &failure);
  // Where nothing answers about nftables JavaScript's own looks are enough.
  struct failure ignored = {0, ""};
  int generation_fd = fd >= 0 && generation_every_ms > 0 ? generation_open(path, &ignored) : -1;
  free(path);
  if (fd < 0) return throw_failure(env, failure);
  int stop = join_groups(env, fd, arguments[2], &failure) ? eventfd(0, EFD_CLOEXEC) : -1;
  struct monitor *monitor = stop < 0 ? NULL : calloc(1, sizeof *monitor);
  if (monitor == NULL) {
    if (failure.number == 0) failure = (struct failure){errno, "eventfd"};
    close_all(fd, stop, generation_fd);
    return throw_failure(env, failure);
  }
  monitor->tag = &monitor_tag;
  monitor->fd = fd;
  monitor->stop = stop;
  monitor->pending_limit = (size_t)limit;
  monitor->generation_fd = generation_fd;
  monitor->generation_every_ms = (int)generation_every_ms;
  if (!start_thread(env, monitor, arguments[6], &failure)) {
    close_all(fd, stop, generation_fd);
    return throw_failure(env, failure);
  }
  napi_create_external(env, monitor, finalize_handle, NULL, &result);
  return result;
}

// monitorClose(handle): the thread has ended when this returns; closing again does nothing.
static napi_value monitor_close(napi_env env, napi_callback_info info) {
  napi_value argument;
  void *data;
  if (!read_arguments(env, info, 1, &argument) || !read_external(env, argument, &monitor_tag, &data)) return NULL;
  end_monitor(env, data);
  return NULL;
}

static bool read_numbers(napi_env env, napi_value array, uint32_t most, int64_t *numbers, uint32_t *count) {
  if (napi_get_array_length(env, array, count) != napi_ok || *count > most) {
    napi_throw_range_error(env, NULL, "weft addon: an array of numbers, not too many, is needed");
    return false;
  }
  for (uint32_t i = 0; i < *count; i++) {
    napi_value element;
    if (napi_get_element(env, array, i, &element) != napi_ok || !read_int(env, element, &numbers[i])) return false;
  }
  return true;
}

#define MOST_TYPES 32
#define MOST_PORTS 64

// monitorIgnore(handle, types, ports): the kernel drops notifications of these types whose request came from one of these ports,
// before they take room in the socket's buffer. Replaces what was ignored before.
//
//   type among types? no: take.  port among ports? no: take.  drop
static napi_value monitor_ignore(napi_env env, napi_callback_info info) {
  napi_value arguments[3];
  void *data;
  int64_t types[MOST_TYPES], ports[MOST_PORTS];
  uint32_t type_count, port_count;
  if (!read_arguments(env, info, 3, arguments) || !read_external(env, arguments[0], &monitor_tag, &data) ||
      !read_numbers(env, arguments[1], MOST_TYPES, types, &type_count) ||
      !read_numbers(env, arguments[2], MOST_PORTS, ports, &port_count))
    return NULL;
  struct monitor *monitor = data;
  if (!monitor->running) return NULL;
  struct sock_filter program[MOST_TYPES + MOST_PORTS + 5];
  unsigned short length = 0;
  // Loads read network byte order, these fields are in the host's: the constants are swapped instead.
  program[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_H | BPF_ABS, offsetof(struct nlmsghdr, nlmsg_type));
  for (uint32_t i = 0; i < type_count; i++)
    program[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons((uint16_t)types[i]), type_count - i, 0);
  program[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
  program[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct nlmsghdr, nlmsg_pid));
  for (uint32_t i = 0; i < port_count; i++)
    program[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl((uint32_t)ports[i]), port_count - i, 0);
  program[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
  program[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
  struct sock_fprog filter = {.len = length, .filter = program};
  if (setsockopt(monitor->fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) != 0)
    return throw_failure(env, (struct failure){errno, "SO_ATTACH_FILTER"});
  return NULL;
}

void init_monitor(napi_env env, napi_value exports) {
  static const struct function functions[] = {{"monitorOpen", monitor_open}, {"monitorIgnore", monitor_ignore}, {"monitorClose", monitor_close}};
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
