/* A thread for each queue of the TUN device (IFF_MULTI_QUEUE), where there are several.
 *
 *     Python's thread    burst_run: wire -> device, whatever needs Python      all else that Python calls
 *     worker 1 ... n     device queue -> wire                                  wait at the door
 *
 * The door is a lock that every lane shares while it carries packets, and that Python's thread holds alone outside of
 * `burst_run`: Python teaches, forgets, adds, removes and seals as if there were no workers. What a worker leaves to
 * Python waits in its result; it tells Python's thread (`nudge`) and does not read on before Python has seen to it.
 * An inbound SA is only that thread's; an outbound one is whose lock it has, see `take_sa`.
 */
#include "burst.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { BROKEN_MS = 100 };

static void ring(int descriptor)
{
    uint64_t one = 1;
    ssize_t written = write(descriptor, &one, sizeof one);
    (void)written; /* full: it has rung already */
}

static void *work(void *given)
{
    burst_t *b = given;
    tables_t *tables = b->tables;
    struct pollfd entries[2] = {{b->queue, POLLIN, 0}, {b->wake, POLLIN, 0}};
    for (;;) {
        poll(entries, 2, -1);
        /* A device that somebody has removed under us would wake us for ever: Python ends. */
        if (entries[0].revents & ~POLLIN) {
            __atomic_store_n(&tables->gone, true, __ATOMIC_RELEASE);
            ring(tables->nudge);
            poll(entries + 1, 1, BROKEN_MS);
        }
        pthread_rwlock_rdlock(&tables->door);
        if (tables->stop) {
            pthread_rwlock_unlock(&tables->door);
            return NULL;
        }
        result_t *result = &b->result;
        uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
        take_outbound(b, b->queue);
        if (began)
            result->total_ns += now_ns() - began;
        bool waits = result->punts || result->unsent || b->leave || result->touched >= PUNTS;
        bool tells = waits || (!b->told && (result->touched || result->dropped));
        b->told |= tells;
        __atomic_store_n(&b->waits, waits, __ATOMIC_RELEASE);
        pthread_rwlock_unlock(&tables->door);
        if (tells)
            ring(tables->nudge);
        while (waits && sem_wait(&b->resume) && errno == EINTR)
            ;
    }
}

/* Python's thread lets the workers in: what they had done has been told. */
void open_door(burst_t *b)
{
    tables_t *tables = b->tables;
    for (uint32_t n = 0; n < tables->workers; n++) {
        burst_t *worker = tables->worker[n];
        begin(worker, tables->queues[n]);
        worker->send[0] = b->send[0];
        worker->send[1] = b->send[1];
        worker->udp = b->udp;
        worker->result.kind = WATCH_DEVICE;
        if (__atomic_exchange_n(&worker->waits, false, __ATOMIC_ACQ_REL))
            sem_post(&worker->resume);
    }
    if (tables->closed) {
        tables->closed = false;
        pthread_rwlock_unlock(&tables->door);
    }
}

/* And has everything for itself again. */
void close_door(burst_t *b)
{
    if (b->tables->workers) {
        pthread_rwlock_wrlock(&b->tables->door);
        b->tables->closed = true;
    }
}

void enter(burst_t *b)
{
    if (b->tables->workers)
        pthread_rwlock_rdlock(&b->tables->door);
}

void leave(burst_t *b)
{
    if (b->tables->workers)
        pthread_rwlock_unlock(&b->tables->door);
}

/* Whether one of them waits for Python. */
bool heed_workers(burst_t *b)
{
    uint64_t rung;
    ssize_t got = read(b->tables->nudge, &rung, sizeof rung);
    (void)got; /* not blocking; nothing there is fine */
    for (uint32_t n = 0; n < b->tables->workers; n++)
        if (__atomic_load_n(&b->tables->worker[n]->waits, __ATOMIC_ACQUIRE))
            return true;
    return false;
}

void stop_workers(burst_t *b)
{
    tables_t *tables = b->tables;
    if (tables->nudge < 0)
        return;
    if (!tables->closed)
        pthread_rwlock_wrlock(&tables->door);
    tables->stop = true;
    tables->closed = false;
    pthread_rwlock_unlock(&tables->door);
    for (uint32_t n = 0; n < tables->workers; n++) {
        burst_t *worker = tables->worker[n];
        ring(worker->wake);
        sem_post(&worker->resume);
        pthread_join(worker->thread, NULL);
        sem_destroy(&worker->resume);
        close(worker->wake);
        lane_free(worker);
    }
    tables->workers = 0;
    close(tables->nudge);
    tables->nudge = -1;
    pthread_rwlock_destroy(&tables->door);
}

static burst_t *start(burst_t *b, int queue)
{
    burst_t *worker = lane_new(b->options, b->tables->workers + 1);
    if (!worker)
        return NULL;
    worker->tables = b->tables;
    worker->queue = queue;
    worker->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->wake >= 0 && sem_init(&worker->resume, 0, 0) == 0) {
        if (pthread_create(&worker->thread, NULL, work, worker) == 0)
            return worker;
        sem_destroy(&worker->resume);
    }
    if (worker->wake >= 0)
        close(worker->wake);
    lane_free(worker);
    return NULL;
}

/* From now on each of these queues of the device has a thread; once, before the first packet. 0, or -1 where that
 * cannot be: then there is none. */
int burst_work(burst_t *b, const int *queues, uint32_t count)
{
    tables_t *tables = b->tables;
    pthread_rwlockattr_t kind;
    sigset_t all, before;
    if (!count || count > WORKERS || tables->workers)
        return -1;
    tables->nudge = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tables->nudge < 0)
        return -1;
    /* Python's thread comes in although the workers' turns overlap without an end. */
    pthread_rwlockattr_init(&kind);
    pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&tables->door, &kind);
    pthread_rwlockattr_destroy(&kind);
    pthread_rwlock_wrlock(&tables->door);
    tables->closed = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are Python's */
    for (; tables->workers < count; tables->workers++) {
        burst_t *worker = start(b, queues[tables->workers]);
        if (!worker)
            break;
        tables->worker[tables->workers] = worker;
        tables->queues[tables->workers] = queues[tables->workers];
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (tables->workers == count)
        return 0;
    stop_workers(b);
    return -1;
}

/* What worker `number` (from 0) has done; NULL for one that there is not. */
const result_t *burst_worked(const burst_t *b, uint32_t number)
{
    return number < b->tables->workers ? &b->tables->worker[number]->result : NULL;
}
