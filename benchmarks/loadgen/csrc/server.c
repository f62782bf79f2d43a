/* A null server for measuring load generators: reads a small POST, answers 200 bytes of JSON, keeps alive.
 *
 * One thread, one epoll, HTTP/1.1 with Content-Length, one request at a time on a connection. With --delay-us
 * each reply leaves that long after its request came in; with --burn-us each request first costs so much CPU.
 * With --record the times of every request and reply by this server's CLOCK_MONOTONIC go to a file when it ends:
 * {int64 arrival_ns, int64 reply_ns, int32 tag, int32 connection}, the tag being the number after the path's
 * last slash, 0 without one. reply_ns is 0 where no reply was sent.
 *
 * Listens on 127.0.0.1 only. Prints "port N" when ready; ends at SIGTERM, SIGINT or the end of standard input and
 * prints a line of JSON. */
#define _GNU_SOURCE
#include "common.h"

#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { MOST_CONNECTIONS = 65536, BUFFER = 8192, EVENTS = 256 };

typedef struct {
    int64_t arrival_ns, reply_ns;
    int32_t tag, connection;
} Record;

typedef struct {
    int open;
    uint32_t generation;
    size_t held; /* bytes of the request that is being read */
    char *buffer;
} Connection;

/* A fixed delay keeps the order of arrival, so that a ring is all it takes. */
typedef struct {
    int64_t due_ns, record;
    int fd;
    uint32_t generation;
} Waiting;

static struct {
    int64_t delay_ns, burn_ns, record_max;
    int spin, cpu, port;
    const char *record_path;
} options = {.cpu = -1, .record_max = 1000000};

static Connection connections[MOST_CONNECTIONS];
static Record *records;
static int64_t recorded, unrecorded, requests, replies, refused, accepted;
static Waiting *ring;
static size_t ring_size, ring_first, ring_count;
static volatile sig_atomic_t stopped;
static int epoll_fd, listener;
static char reply_text[512];
static size_t reply_length;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static void make_reply(void) {
    char body[201];
    int begun = snprintf(body, sizeof body, "{\"scores\": [0.25, 0.5, 0.125], \"model\": \"null\", \"padding\": \"");
    memset(body + begun, 'x', 200 - (size_t)begun - 2);
    memcpy(body + 198, "\"}", 3);
    reply_length = (size_t)snprintf(reply_text, sizeof reply_text,
                                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n%s",
                                    body);
}

static void drop(int fd) {
    Connection *connection = &connections[fd];
    if (!connection->open) return;
    connection->open = 0;
    connection->generation++;
    connection->held = 0;
    close(fd);
}

static void reply_to(int fd, int64_t record) {
    int64_t at_ns = now_ns();
    /* Replies are small and one is outstanding on a connection: what does not go at once never will. */
    if (send(fd, reply_text, reply_length, MSG_NOSIGNAL) != (ssize_t)reply_length) {
        refused++;
        drop(fd);
        return;
    }
    replies++;
    if (record >= 0) records[record].reply_ns = at_ns;
}

static void burn(void) {
    int64_t until_ns = thread_ns() + options.burn_ns;
    while (thread_ns() < until_ns) {
    }
}

static void wait_with(int fd, int64_t due_ns, int64_t record) {
    if (ring_count == ring_size) {
        size_t larger = ring_size ? 2 * ring_size : 4096;
        Waiting *grown = malloc(larger * sizeof *grown);
        if (!grown) fail("malloc");
        for (size_t i = 0; i < ring_count; i++) grown[i] = ring[(ring_first + i) % ring_size];
        free(ring);
        ring = grown;
        ring_size = larger;
        ring_first = 0;
    }
    ring[(ring_first + ring_count++) % ring_size] = (Waiting){due_ns, record, fd, connections[fd].generation};
}

static void answer_due(void) {
    while (ring_count && ring[ring_first].due_ns <= now_ns()) {
        Waiting due = ring[ring_first];
        ring_first = (ring_first + 1) % ring_size;
        ring_count--;
        if (connections[due.fd].open && connections[due.fd].generation == due.generation)
            reply_to(due.fd, due.record);
    }
}

/* The number after the last slash of "POST /some/path/17 HTTP/1.1". */
static int32_t tag_of(const char *request) {
    const char *path = strchr(request, ' '), *end = path ? strpbrk(path + 1, " ?\r") : NULL;
    if (!end) return 0;
    const char *slash = end;
    while (slash > path && *slash != '/') slash--;
    return (int32_t)atoi(slash + 1);
}

static void take_request(int fd, const char *request, int64_t arrival_ns) {
    int64_t record = -1;
    requests++;
    if (records && recorded < options.record_max) {
        record = recorded++;
        records[record] = (Record){arrival_ns, 0, tag_of(request), fd};
    } else if (options.record_path) {
        unrecorded++;
    }
    if (options.burn_ns) burn();
    if (options.delay_ns)
        wait_with(fd, arrival_ns + options.delay_ns, record);
    else
        reply_to(fd, record);
}

/* Reads what is there and takes the whole requests in it. */
static void serve(int fd) {
    Connection *connection = &connections[fd];
    ssize_t got = recv(fd, connection->buffer + connection->held, BUFFER - 1 - connection->held, 0);
    int64_t arrival_ns = now_ns();
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) drop(fd);
        return;
    }
    connection->held += (size_t)got;
    while (connection->open && connection->held) {
        connection->buffer[connection->held] = 0;
        size_t length = message_length(connection->buffer, connection->held);
        if (length > connection->held || !length) {
            /* Never whole in this buffer: nothing that this server is for. */
            if (connection->held == BUFFER - 1 || length > BUFFER - 1) {
                refused++;
                drop(fd);
            }
            return;
        }
        take_request(fd, connection->buffer, arrival_ns);
        if (!connection->open) return;
        connection->held -= length;
        memmove(connection->buffer, connection->buffer + length, connection->held);
    }
}

static void accept_all(void) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        if (fd >= MOST_CONNECTIONS) {
            close(fd);
            refused++;
            continue;
        }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Connection *connection = &connections[fd];
        if (!connection->buffer) connection->buffer = malloc(BUFFER);
        if (!connection->buffer) fail("malloc");
        connection->open = 1;
        connection->held = 0;
        accepted++;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
    }
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    /* A plain file as standard input cannot be watched and never ends: signals alone end the server then. */
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 && errno != EPERM) fail("epoll_ctl");
}

static void listen_here(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    socklen_t size = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
    if (listen(listener, 4096) < 0 || getsockname(listener, (struct sockaddr *)&address, &size) < 0) fail("listen");
    watch(listener);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static int64_t may_sleep_ns(void) {
    if (options.spin) return 0;
    if (!ring_count) return -1;
    int64_t left_ns = ring[ring_first].due_ns - now_ns() - LEAD_NS;
    return left_ns > 0 ? left_ns : 0;
}

static void run(void) {
    struct epoll_event events[EVENTS];
    while (!stopped) {
        int count = wait_for_events(epoll_fd, events, EVENTS, may_sleep_ns());
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all();
            } else if (fd == STDIN_FILENO) {
                char ignored[64];
                if (read(fd, ignored, sizeof ignored) <= 0) stopped = 1;
            } else {
                serve(fd);
            }
            if (ring_count) answer_due();
        }
        answer_due();
    }
}

static void write_records(void) {
    FILE *file = fopen(options.record_path, "wb");
    if (!file || fwrite(records, sizeof *records, (size_t)recorded, file) != (size_t)recorded || fclose(file))
        fail(options.record_path);
}

static void read_options(int count, char **words) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},   {"delay-us", 1, 0, 'd'}, {"burn-us", 1, 0, 'b'},    {"spin", 0, 0, 's'},
        {"cpu", 1, 0, 'c'},    {"record", 1, 0, 'r'},   {"record-max", 1, 0, 'm'}, {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(count, words, "", known, NULL)) != -1;) switch (option) {
            case 'p': options.port = atoi(optarg); break;
            case 'd': options.delay_ns = (int64_t)(atof(optarg) * 1e3); break;
            case 'b': options.burn_ns = (int64_t)(atof(optarg) * 1e3); break;
            case 's': options.spin = 1; break;
            case 'c': options.cpu = atoi(optarg); break;
            case 'r': options.record_path = optarg; break;
            case 'm': options.record_max = atoll(optarg); break;
            default: exit(2);
        }
}

int main(int count, char **words) {
    read_options(count, words);
    stay_on(options.cpu);
    make_reply();
    if (options.record_path) {
        /* Touched beforehand: a page fault in the middle would delay a request. */
        records = mmap(NULL, (size_t)options.record_max * sizeof *records, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (records == MAP_FAILED) fail("mmap");
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    watch(STDIN_FILENO);
    listen_here();
    run();
    if (options.record_path) write_records();
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"requests\": %lld, \"replies\": %lld, \"recorded\": %lld, \"unrecorded\": %lld, \"refused\": %lld, "
           "\"connections\": %lld, \"cpu_s\": %.6f}\n",
           (long long)requests, (long long)replies, (long long)recorded, (long long)unrecorded, (long long)refused,
           (long long)accepted, cpu_s(&usage));
    return 0;
}
