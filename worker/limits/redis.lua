-- The arithmetic of slots.py once more, where all processes meet. Why each thing is as it is stands there; a test holds
-- the two equal. KEYS are the buckets; ARGV[1] is the order in JSON. The moment is the server's own, unless the order
-- brings one.

local CELL_MS, CELLS_A_SECOND = 20, 50
local ACTIVE_MS, FIRST_MS, CLOSED_MS, SPARE_MS, IN_A_ROW_MS = 2000, 5000, 60000, 60000, 250
local OFTEN = 0.05
local PACE, EAGER, HAIR, CARRIED_CELLS, BOUNDLESS, MOST_DOUBLINGS = 50, 1.1, 1e-6, 2, 1000000000, 30
local OPENS_CELLS = 5

local order = cjson.decode(ARGV[1])
local now = order.now
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local now_cell = math.floor(now / CELL_MS)

local function bring_up(state)
  if state.at and state.at > now_cell then
    state = { learned = state.learned, learned_at = state.learned and now or nil }
  end
  state.at = state.at or (now_cell - CELLS_A_SECOND)
  state.anchor = state.anchor or now_cell
  state.members = state.members or {}
  for _, name in ipairs({ 'used', 'low' }) do state[name] = state[name] or {} end
  local numbers = { 'until', 'tail', 'first_at', 'row', 'window', 'throttled', 'handed_out', 'refused', 'opens' }
  for _, name in ipairs(numbers) do state[name] = state[name] or 0 end
  local gone = now_cell - CELLS_A_SECOND - state.at
  if gone > 0 then
    for _, name in ipairs({ 'used', 'low' }) do
      local left = {}
      for index = gone + 1, #state[name] do left[#left + 1] = state[name][index] end
      state[name] = left
    end
    state.at = state.at + gone
  end
  return state
end

local function in_force(bucket, state)
  local quota = bucket.quota
  if state.learned and now - state.learned_at < 2 * order.keep then
    local back = math.max(0, (now - state.learned_at) / order.keep - 1)
    quota = quota < 0 and state.learned or state.learned + (quota - state.learned) * back
  end
  if bucket.ceiling >= 0 and (quota < 0 or quota > bucket.ceiling) then quota = bucket.ceiling end
  return quota
end

local function capacity(index, a_cell)
  return math.ceil((index + 1) * a_cell - HAIR) - math.ceil(index * a_cell - HAIR)
end

local function taken(state, name, cell)
  return state[name][cell - state.at + 1] or 0
end

local function take(state, name, cell, count)
  local index, counts = cell - state.at + 1, state[name]
  if index >= 1 then
    for missing = #counts + 1, index do counts[missing] = 0 end
    counts[index] = math.max(0, counts[index] + count)
  end
end

local function anchor(state, a_cell)
  local last = state.at + #state.used - 1
  while last >= state.at and taken(state, 'used', last) == 0 do last = last - 1 end
  if a_cell > 0 and now_cell - last - 1 >= math.ceil(1 / a_cell - HAIR) then
    if last < state.at then
      state.opens = now_cell + OPENS_CELLS
      state.anchor = state.opens - 1
    elseif now_cell >= state.opens then
      state.anchor = now_cell
    end
  end
end

local function is_opening(state, cell)
  return cell >= state.opens - OPENS_CELLS and cell < state.opens
end

local function cell_capacity(level, cell)
  if is_opening(level.state, cell) then
    return cell == level.state.opens - OPENS_CELLS and capacity(0, level.rate / CELLS_A_SECOND) or 0
  end
  return capacity(cell - level.state.anchor, level.rate / CELLS_A_SECOND)
end

local function look(level, cell)
  local carried = math.min(math.max(level.credit, 0), level.depth)
  level.credit = carried + cell_capacity(level, cell) - taken(level.state, 'used', cell)
end

local function begin(level, cell)
  local state, need = level.state, 0
  level.depth = math.max(1, math.floor(CARRIED_CELLS * level.rate / CELLS_A_SECOND))
  local anchor = is_opening(state, state.anchor) and state.opens - OPENS_CELLS or state.anchor
  for earlier = math.max(state.at, anchor), cell - 1 do look(level, earlier) end
  for later = state.at + #state.used - 1, cell + 1, -1 do
    need = math.min(level.depth, math.max(0, need + taken(state, 'used', later) - cell_capacity(level, later)))
    level.needed[later - 1] = need
  end
end

local function window(state, cell)
  local held = 0
  for earlier = cell - CELLS_A_SECOND, cell do held = held + taken(state, 'used', earlier) end
  local fullest = held
  for entering = cell + 1, math.min(cell + CELLS_A_SECOND, state.at + #state.used - 1) do
    held = held + taken(state, 'used', entering) - taken(state, 'used', entering - CELLS_A_SECOND - 1)
    fullest = math.max(fullest, held)
  end
  return fullest
end

local function room(level, cell)
  look(level, cell)
  local left = level.credit - (level.needed[cell] or 0)
  if level.depth > 0 then
    left = math.min(left, math.max(1, math.floor(level.quota)) - window(level.state, cell))
  end
  if is_opening(level.state, cell) then
    local opens = level.state.opens
    local rest = cell_capacity(level, opens - OPENS_CELLS)
    for each = opens - OPENS_CELLS, opens - 1 do rest = rest - taken(level.state, 'used', each) end
    return level.depth > 0 and math.min(left, rest) or rest
  end
  if level.headroom > 0 then
    local index, a_cell, part = cell - level.state.anchor, level.rate / CELLS_A_SECOND, 1 - level.headroom
    local before, after = math.ceil(index * a_cell - HAIR), math.ceil((index + 1) * a_cell - HAIR)
    local share = math.ceil(after * part - HAIR) - math.ceil(before * part - HAIR)
    left = math.min(left, share - taken(level.state, 'low', cell))
  end
  return left
end

local function free(levels, cell)
  local least, tightest = BOUNDLESS, 0
  for number, level in ipairs(levels) do
    if level.rate >= 0 then
      local left = room(level, cell)
      if left < least then least, tightest = left, number end
    end
  end
  return least, tightest
end

local function share(want, levels)
  local far = math.floor((now + order.near) / CELL_MS)
  if #levels == 1 or levels[2].rate < 0 then return far, 0 end
  local members, active = levels[2].state.members, 0
  for who, untils in pairs(members) do
    if untils[1] <= now then members[who] = nil end
  end
  local own = members[want.who] or { 0, 0 }
  members[want.who] = { math.max(now + ACTIVE_MS, own[1]), own[2] }
  for _ in pairs(members) do active = active + 1 end
  if active == 1 then return far, 0 end
  local half = math.floor((now + math.floor(order.near / 2)) / CELL_MS)
  local all = 0
  for _, count in ipairs(levels[2].state.used) do all = all + count end
  return half, all / active
end

local function come_back(want, levels, start, missing, is_crowded)
  local later = {}
  if missing == 0 then return later end
  local own, rate, members = levels[1].state, levels[1].rate, levels[#levels].state.members
  if #levels > 1 and is_crowded then
    local rivals = 0
    members[want.who][2] = now + ACTIVE_MS
    for _, untils in pairs(members) do
      if untils[2] > now then rivals = rivals + 1 end
    end
    local shared = levels[2].rate / rivals
    rate = rate < 0 and shared or math.min(rate, shared)
  end
  if rate == 0 then
    for number = 1, missing do later[number] = CLOSED_MS * (1 + order.chance) end
    return later
  end
  local between, lead = 1000 / (rate > 0 and rate * EAGER or PACE), math.floor(order.near / 2)
  local tail = math.max(own.tail, start + (start > now and lead or order.near))
  for number = 1, missing do
    later[number] = tail + between * (number - 1 + order.chance) - lead - now
  end
  own.tail = math.ceil(tail + between * missing)
  if members[want.who] then members[want.who][1] = math.ceil(now + later[missing]) + ACTIVE_MS end
  return later
end

local function take_all(states, cell, count, goes_first)
  for _, state in ipairs(states) do
    state.handed_out = state.handed_out + count
    take(state, 'used', cell, count)
    if not goes_first then take(state, 'low', cell, count) end
  end
end

local function meet(want, state, quota)
  if want.first then state.first_at = now end
  local is_second = not want.first and now - state.first_at < FIRST_MS
  local rate = quota >= 0 and quota * order.use or -1
  anchor(state, rate / CELLS_A_SECOND)
  local headroom = is_second and order.headroom or 0
  return { state = state, quota = quota, rate = rate, headroom = headroom, depth = 0, credit = 0, needed = {} }
end

local function slots(want, levels)
  local start, had, met = now, 0, {}
  for number, level in ipairs(levels) do
    start = math.max(start, level.state['until'])
    met[number] = level.state
  end
  local cell, last = math.floor(start / CELL_MS), math.floor((now + order.near) / CELL_MS)
  local share_ends, part = share(want, levels)
  if #levels > 1 and levels[1].rate >= 0 and cell <= last then begin(levels[1], cell) end
  for _, count in ipairs(met[1].used) do had = had + count end
  local times, cells, is_crowded = {}, {}, false
  while #times < want.count and cell <= last do
    if cell > share_ends and had >= part then
      is_crowded = true
      break
    end
    local left, tightest = free(levels, cell)
    is_crowded = is_crowded or (tightest == 2 and left <= 0)
    local count = math.max(0, math.min(left, want.count - #times))
    local before = taken(met[math.max(tightest, 1)], 'used', cell)
    for number = 0, count - 1 do
      local at = tightest > 0 and (cell + (before + number) / (before + left)) * CELL_MS or 0
      times[#times + 1] = math.max(at, start) - now
      cells[#cells + 1] = cell
    end
    if count > 0 then
      had = had + count
      for _, level in ipairs(levels) do level.credit = level.credit - count end
      take_all(met, cell, count, want.first)
    end
    cell = cell + 1
  end
  local later = come_back(want, levels, start, want.count - #times, is_crowded)
  return { slots = times, cells = cells, later = later, queue = math.max(0, met[1].tail - now) }
end

local verbs = {}

function verbs.reserve(states)
  local quotas, wants = {}, {}
  for index, state in ipairs(states) do quotas[index] = in_force(order.buckets[index], state) end
  for number, want in ipairs(order.wants) do
    local levels = {}
    for level, index in ipairs(want.buckets) do
      levels[level] = meet(want, states[index + 1], quotas[index + 1])
    end
    wants[number] = slots(want, levels)
  end
  return { wants = wants, quotas = quotas }
end

function verbs.release(states)
  for _, cell in ipairs(order.cells) do take_all(states, cell, -1, order.first) end
  return { done = true }
end

function verbs.observe(states)
  local quotas = {}
  for index, state in ipairs(states) do
    local bucket, told = order.buckets[index], order.told[index]
    local before = in_force(bucket, state)
    if told == bucket.quota then
      state.learned, state.learned_at = nil, nil
    else
      state.learned, state.learned_at = told, now
    end
    local after = in_force(bucket, state)
    if before > 0 and after > 0 and state.tail > now then
      state.tail = math.ceil(now + (state.tail - now) * before / after)
    end
    quotas[index] = after
  end
  return { quotas = quotas }
end

function verbs.throttled(states)
  local waits, sent = {}, now - order.age
  for index, state in ipairs(states) do
    if sent >= state['until'] then
      local is_soon = sent - state['until'] < 2 * state.window + IN_A_ROW_MS
      local is_in_a_row = is_soon and state.refused >= OFTEN * state.handed_out
      state.row = is_in_a_row and state.row + 1 or 1
      state.handed_out, state.refused = 0, 0
      state.window = math.min(order.cap, order.base * 2 ^ math.min(state.row - 1, MOST_DOUBLINGS))
      state['until'] = math.ceil(now + order.chance * state.window)
    end
    state.refused = state.refused + 1
    state.throttled = state.throttled + 1
    waits[index] = math.max(0, state['until'] - now)
  end
  return { waits = waits }
end

function verbs.look(states)
  local looks = {}
  for index, state in ipairs(states) do
    local past, used, ahead = now_cell - state.at, 0, 0
    for position, count in ipairs(state.used) do
      if position <= past then used = used + count else ahead = ahead + count end
    end
    looks[index] = {
      quota = in_force(order.buckets[index], state),
      learned = state.learned or -1,
      age = state.learned_at and now - state.learned_at or 0,
      used = used,
      ahead = ahead,
      still = math.max(0, state['until'] - now),
      throttled = state.throttled,
      queue = math.max(0, state.tail - now),
    }
  end
  return { looks = looks }
end

local states = {}
for index, kept in ipairs(redis.call('MGET', unpack(KEYS))) do
  states[index] = bring_up(kept and cjson.decode(kept) or {})
end
local reply = verbs[order['do']](states)
if order['do'] ~= 'look' then
  for index, state in ipairs(states) do
    local lasts = math.max(now, state.tail, state['until'], state.learned_at and state.learned_at + 2 * order.keep or now)
    redis.call('SET', KEYS[index], cjson.encode(state), 'PX', string.format('%.0f', lasts - now + SPARE_MS))
  end
end
return cjson.encode(reply)
