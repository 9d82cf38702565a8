// What a wakeup costs here: one thread sleeps on an eventfd, the other polls for its request, works for a while and calls it. That is a
// driver and a daemon at depth 1 with nothing else to do, and no daemon that calls a sleeping driver can be faster.
//   gcc -O2 -pthread -o wake tools/wake.c && ./wake 2000        # nanoseconds of work for a request
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static _Atomic uint32_t request, answer;
static _Atomic int done;
static int call;
static int64_t work_ns;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *serve(void *unused) {
  for (uint32_t last = 0; !atomic_load(&done);) {
    uint32_t wanted = atomic_load(&request);
    if (wanted == last) continue;
    last = wanted;
    for (int64_t end = now() + work_ns; now() < end;) continue;
    atomic_store(&answer, wanted);
    uint64_t one = 1;
    if (write(call, &one, sizeof one) != sizeof one) abort();
  }
  return unused;
}

int main(int argc, char **argv) {
  enum { ROUNDS = 200000 };
  work_ns = argc > 1 ? atoll(argv[1]) : 2000;
  call = eventfd(0, EFD_NONBLOCK);
  pthread_t server;
  if (call < 0 || pthread_create(&server, NULL, serve, NULL) != 0) return 1;
  int64_t begun = now();
  for (uint32_t i = 1; i <= ROUNDS; i++) {
    atomic_store(&request, i);
    while (atomic_load(&answer) != i) {
      struct pollfd wait = {call, POLLIN, 0};
      uint64_t count;
      if (poll(&wait, 1, 5000) > 0 && read(call, &count, sizeof count) < 0) continue;
    }
  }
  double us = (now() - begun) / 1000.0 / ROUNDS;
  atomic_store(&done, 1);
  pthread_join(server, NULL);
  printf("%.1f us a round trip, %.0f a second\n", us, 1e6 / us);
  return 0;
}
