/* An open-loop HTTP client in C: what is left when nothing of the generator costs anything.
 *
 * Sends the same request at each offset of a schedule (float64 seconds) over keep-alive connections to 127.0.0.1,
 * one request at a time on each; where every connection waits for a reply, the request is skipped. Sleeps until
 * --lead-us before a send and spins the rest: 0 only sleeps, -1 only spins. Writes {int64 intended_ns, sent_ns,
 * done_ns} of CLOCK_MONOTONIC for each row, 0 where it did not come to that, and prints a line of JSON. */
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { BUFFER = 8192, EVENTS = 256, MOST_CONNECTIONS = 16384 };
#define START_NS 50000000

typedef struct {
    int64_t intended_ns, sent_ns, done_ns;
} Row;

typedef struct {
    int fd;
    int64_t row;
    size_t held;
    char buffer[BUFFER];
} Connection;

static struct {
    int port, connections, cpu;
    double lead_us, drain_s;
    const char *schedule_path, *request_path, *out_path;
} options = {.connections = 64, .cpu = -1, .lead_us = 100, .drain_s = 1};

static Connection *connections;
static int *idle;
static int idle_count, epoll_fd;
static int64_t sent, skipped, answered, broken;
static char *request;
static size_t request_length;
static Row *rows;
static int64_t row_count;

static char *read_whole(const char *path, size_t *length) {
    int file = open(path, O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status) < 0) fail(path);
    char *content = malloc((size_t)status.st_size + 1);
    if (!content) fail("malloc");
    size_t got = 0;
    while (got < (size_t)status.st_size) {
        ssize_t more = read(file, content + got, (size_t)status.st_size - got);
        if (more <= 0) fail(path);
        got += (size_t)more;
    }
    close(file);
    *length = got;
    return content;
}

static void connect_all(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connections = calloc((size_t)options.connections, sizeof *connections);
    idle = calloc((size_t)options.connections, sizeof *idle);
    if (!connections || !idle) fail("calloc");
    for (int i = 0; i < options.connections; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        connections[i].fd = fd;
        idle[idle_count++] = i;
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
    }
}

/* A connection that breaks is not replaced: its request stays without a reply, and the count of them tells. */
static void give_up(int number) {
    broken++;
    close(connections[number].fd);
    connections[number].fd = -1;
}

static void send_row(int64_t row) {
    if (!idle_count) {
        skipped++;
        return;
    }
    int number = idle[--idle_count];
    rows[row].sent_ns = now_ns();
    connections[number].row = row;
    sent++;
    if (send(connections[number].fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length)
        give_up(number);
}

static void take_reply(int number) {
    Connection *connection = &connections[number];
    if (connection->fd < 0) return;
    ssize_t got = recv(connection->fd, connection->buffer + connection->held, BUFFER - 1 - connection->held, 0);
    int64_t at_ns = now_ns();
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) give_up(number);
        return;
    }
    connection->held += (size_t)got;
    connection->buffer[connection->held] = 0;
    size_t length = message_length(connection->buffer, connection->held);
    if (!length || length > connection->held) return;
    connection->held = 0;
    rows[connection->row].done_ns = at_ns;
    answered++;
    idle[idle_count++] = number;
}

static int64_t may_sleep_ns(int64_t next, int64_t end_ns) {
    int64_t until_ns = next < row_count ? rows[next].intended_ns : end_ns;
    if (options.lead_us < 0) return 0;
    int64_t left_ns = until_ns - now_ns() - (int64_t)(options.lead_us * 1e3);
    return left_ns > 0 ? left_ns : 0;
}

static void run(void) {
    struct epoll_event events[EVENTS];
    int64_t next = 0, end_ns = rows[row_count - 1].intended_ns + (int64_t)(options.drain_s * 1e9);
    while (now_ns() < end_ns && (next < row_count || answered + broken < sent)) {
        while (next < row_count && rows[next].intended_ns <= now_ns()) send_row(next++);
        int count = wait_for_events(epoll_fd, events, EVENTS, may_sleep_ns(next, end_ns));
        for (int i = 0; i < count; i++) {
            take_reply((int)events[i].data.u32);
            if (next < row_count && rows[next].intended_ns <= now_ns()) send_row(next++);
        }
    }
}

static void read_options(int count, char **words) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},    {"connections", 1, 0, 'n'}, {"cpu", 1, 0, 'c'}, {"lead-us", 1, 0, 'l'},
        {"drain-s", 1, 0, 'd'}, {"schedule", 1, 0, 's'},    {"request", 1, 0, 'r'}, {"out", 1, 0, 'o'},
        {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(count, words, "", known, NULL)) != -1;) switch (option) {
            case 'p': options.port = atoi(optarg); break;
            case 'n': options.connections = atoi(optarg); break;
            case 'c': options.cpu = atoi(optarg); break;
            case 'l': options.lead_us = atof(optarg); break;
            case 'd': options.drain_s = atof(optarg); break;
            case 's': options.schedule_path = optarg; break;
            case 'r': options.request_path = optarg; break;
            case 'o': options.out_path = optarg; break;
            default: exit(2);
        }
    if (!options.port || !options.schedule_path || !options.request_path || !options.out_path ||
        options.connections < 1 || options.connections > MOST_CONNECTIONS) {
        fprintf(stderr, "openclient: --port, --schedule, --request and --out are needed, and 1 to %d --connections\n",
                MOST_CONNECTIONS);
        exit(2);
    }
}

int main(int count, char **words) {
    read_options(count, words);
    stay_on(options.cpu);
    size_t length;
    double *offsets = (double *)(void *)read_whole(options.schedule_path, &length);
    row_count = (int64_t)(length / sizeof *offsets);
    request = read_whole(options.request_path, &request_length);
    rows = calloc((size_t)row_count, sizeof *rows);
    if (!rows || !row_count) fail("no schedule");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connect_all();
    int64_t start_ns = now_ns() + START_NS;
    for (int64_t i = 0; i < row_count; i++) rows[i].intended_ns = start_ns + (int64_t)(offsets[i] * 1e9);
    run();
    FILE *file = fopen(options.out_path, "wb");
    if (!file || fwrite(rows, sizeof *rows, (size_t)row_count, file) != (size_t)row_count || fclose(file))
        fail(options.out_path);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"sent\": %lld, \"skipped\": %lld, \"answered\": %lld, \"broken\": %lld, \"cpu_s\": %.6f}\n",
           (long long)sent, (long long)skipped, (long long)answered, (long long)broken, cpu_s(&usage));
    return 0;
}
