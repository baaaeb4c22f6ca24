#define POCKETVLM_ISA avx2
#include "coded/coded_kernel.h"
#include "coded/encode_kernel.h"
