/* Preloaded into linux.uml on processors whose register state is larger than the 2696 bytes that UML 6.1 knows (AMX:
 * 11008). UML saves and restores the registers of its processes by PTRACE_GETREGSET and PTRACE_SETREGSET of
 * NT_X86_XSTATE; the host truncates the first kindly and refuses the second unless it has the full size ("Aborted" in
 * put_fp_registers). So a short write becomes: read all of it, lay the short part over it, write all of it.
 * What lies behind the short part (AMX tiles) no process in UML ever uses. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { GETREGSET = 0x4204, SETREGSET = 0x4205, X86_XSTATE = 0x202, LARGEST = 32768 };

long ptrace(int request, ...) {
    va_list list;
    va_start(list, request);
    pid_t pid = va_arg(list, pid_t);
    void *address = va_arg(list, void *);
    void *data = va_arg(list, void *);
    va_end(list);
    long peeked = 0;
    if (request >= 1 && request <= 3) { /* PEEK*: the system call stores, the library returns */
        long status = syscall(SYS_ptrace, request, pid, address, &peeked);
        return status < 0 ? status : peeked;
    }
    if (request == SETREGSET && (long)address == X86_XSTATE) {
        static unsigned char whole[LARGEST];
        struct iovec *part = data, all = {whole, sizeof whole};
        if (syscall(SYS_ptrace, GETREGSET, pid, address, &all) == 0 && all.iov_len > part->iov_len) {
            memcpy(whole, part->iov_base, part->iov_len);
            return syscall(SYS_ptrace, SETREGSET, pid, address, &all);
        }
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
