/* What the server and the client share: clocks, sleeping in nanoseconds, and the length of an HTTP message. */
#ifndef LOADGEN_COMMON_H
#define LOADGEN_COMMON_H

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* How long before a moment a sleeper must be woken to be there in time; wake-ups come 40 to 250 us late. */
#define LEAD_NS 150000

static inline void fail(const char *what) {
    perror(what);
    exit(1);
}

static inline int64_t clock_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static inline int64_t thread_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }

static inline double cpu_s(const struct rusage *usage) {
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
           1e-6 * (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec);
}

/* Bind to a core, and wake up as near to the moment asked for as the system allows. */
static inline void stay_on(int cpu) {
    prctl(PR_SET_TIMERSLACK, 1);
    if (cpu < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) fail("sched_setaffinity");
}

/* Like epoll_wait, with a time-out in nanoseconds; negative: none. A signal counts as no event. */
static inline int wait_for_events(int epoll_fd, struct epoll_event *events, int most, int64_t timeout_ns) {
    int count;
    if (timeout_ns <= 0) {
        count = epoll_wait(epoll_fd, events, most, timeout_ns ? -1 : 0);
    } else {
        struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        count = epoll_pwait2(epoll_fd, events, most, &timeout, NULL);
    }
    if (count < 0 && errno != EINTR) fail("epoll_wait (epoll_pwait2 needs Linux 5.11)");
    return count < 0 ? 0 : count;
}

/* How long a message with a Content-Length, or without a body, is; 0 while its headers are incomplete.
 * The text must end with a 0 byte at text[held]. */
static inline size_t message_length(const char *text, size_t held) {
    const char *end = memmem(text, held, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t body = 0;
    for (const char *line = strstr(text, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, "content-length:", 15)) {
            body = strtoul(line + 17, NULL, 10);
            break;
        }
    return (size_t)(end - text) + 4 + body;
}

#endif
