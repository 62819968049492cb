// Executes one CNI plugin for many containers at once and times it as a runtime sees it: from before the first process is made until the
// last one has ended. In C, because making sixteen processes from Node takes longer than what is measured.
//
//   burst PROGRAM CONF PREFIX FIRST COUNT      environment: CNI_* of the call, handed on
//
// Container PREFIX-n has the namespace /run/netns/PREFIX-n. Prints {"wallNs":…,"failed":…}; a failed plugin's words go to stderr.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 64

extern char **environ;

struct job {
  char id[128], netns[160];
  char *env[256];
  int output;
  pid_t pid;
};

static struct job jobs[MOST];

static long long now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void prepare(struct job *job, const char *prefix, int number) {
  snprintf(job->id, sizeof job->id, "CNI_CONTAINERID=%s-%d", prefix, number);
  snprintf(job->netns, sizeof job->netns, "CNI_NETNS=/run/netns/%s-%d", prefix, number);
  int at = 0;
  for (char **variable = environ; *variable != NULL && at < 250; variable++) job->env[at++] = *variable;
  job->env[at++] = job->id;
  job->env[at++] = job->netns;
  job->output = memfd_create("output", MFD_CLOEXEC);
}

static int start(struct job *job, const char *program, int conf) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  char path[64];
  // Opened anew for each, so that no two share a position.
  snprintf(path, sizeof path, "/proc/self/fd/%d", conf);
  posix_spawn_file_actions_addopen(&files, 0, path, O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, job->output, 1);
  posix_spawn_file_actions_adddup2(&files, job->output, 2);
  char *arguments[] = {(char *)program, NULL};
  int error = posix_spawn(&job->pid, program, &files, NULL, arguments, job->env);
  posix_spawn_file_actions_destroy(&files);
  return error;
}

static void show(const struct job *job, int status) {
  char text[4096];
  ssize_t length = pread(job->output, text, sizeof text, 0);
  fprintf(stderr, "%s: status %d: %.*s\n", job->id, status, length > 0 ? (int)length : 0, text);
}

int main(int count, char **argument) {
  if (count != 6) return 2;
  int first = atoi(argument[4]), number = atoi(argument[5]), failed = 0;
  int conf = open(argument[2], O_RDONLY);
  if (number < 1 || number > MOST || conf < 0) return 2;
  for (int at = 0; at < number; at++) prepare(&jobs[at], argument[3], first + at);
  long long began = now_ns();
  for (int at = 0; at < number; at++) {
    int error = start(&jobs[at], argument[1], conf);
    if (error != 0) {
      fprintf(stderr, "%s: %s\n", argument[1], strerror(error));
      return 1;
    }
  }
  int statuses[MOST] = {0};
  for (int at = 0; at < number; at++) waitpid(jobs[at].pid, &statuses[at], 0);
  long long wall = now_ns() - began;
  for (int at = 0; at < number; at++) {
    if (statuses[at] == 0) continue;
    failed++;
    show(&jobs[at], statuses[at]);
  }
  printf("{\"wallNs\":%lld,\"failed\":%d}\n", wall, failed);
  return 0;
}
